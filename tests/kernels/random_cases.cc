#include "tests/kernels/random_cases.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

namespace kvsteward::engine {
namespace {

template <class T, size_t n>
T OneOf(Random& random, const T (&values)[n]) {
  return values[random() % n];
}

// Ascending positions of `n` tokens, and how many of them are stored rather than appended.
std::vector<int64_t> MakePositions(Random& random, int32_t n, bool gaps, int32_t* stored) {
  std::vector<int64_t> positions;
  *stored = gaps ? Between(random, 0, n) : 0;
  int64_t next = gaps ? Between(random, 0, 6) : 0;
  for (int32_t j = 0; j < n; ++j) {
    positions.push_back(next);
    next += j < *stored && random() % 3 == 0 ? Between(random, 1, 40) : 1;
  }
  return positions;
}

}  // namespace

int32_t Between(Random& random, int32_t low, int32_t high) {
  return low + static_cast<int32_t>(random() % static_cast<uint32_t>(high - low + 1));
}

PlainSequence MakeSequence(Random& random, const Shape& shape) {
  std::normal_distribution<double> gaussian;
  const auto draw = [&](DType dtype, double scale) {
    const double value = shape.numbers == Numbers::kFewDistinct ? static_cast<double>(random() % 2) : gaussian(random);
    return Rounded(dtype, scale * value);
  };
  const auto draw_value = [&](double scale) {
    if (shape.numbers != Numbers::kHugeValues) return draw(shape.dtype, scale);
    const double size = shape.dtype == DType::kF16 ? 3e4 : std::sqrt(1e38 / shape.head_dim);
    const double sign = random() % 2 == 0 ? 1 : -1;
    return Rounded(shape.dtype, sign * size * std::uniform_real_distribution<double>(0.5, 1.5)(random));
  };
  // kTinyMasses: queries are nearly all ones and a key is the same number d times, its logit over sqrt(d).
  const auto draw_query = [&](double scale) {
    if (shape.numbers != Numbers::kTinyMasses) return draw(shape.query_dtype, scale);
    return Rounded(shape.query_dtype, 1 + 0.02 * gaussian(random));
  };
  const auto tiny_logit = [&](int32_t j) {
    const double bits = j == 0 ? 100 : std::uniform_real_distribution<double>(-8, 8)(random);
    return bits * std::numbers::ln2;
  };
  const double query_scale = shape.numbers == Numbers::kNoSignal ? 0 : shape.numbers == Numbers::kHugeLogits ? 100 : 1;
  const double key_scale = shape.numbers == Numbers::kHugeLogits ? 20 : 1;

  PlainSequence plain;
  plain.dtype = shape.dtype;
  plain.query_dtype = shape.query_dtype;
  plain.contents.layers = shape.layers;
  plain.contents.kv_heads = shape.kv_heads;
  plain.contents.query_heads = shape.kv_heads * shape.group;
  plain.contents.head_dim = shape.head_dim;
  for (const int32_t n : shape.lengths) {
    reference::Unit unit;
    plain.stored.emplace_back();
    unit.positions = MakePositions(random, n, shape.gaps, &plain.stored.back());
    if (n > 0) plain.seen = std::max(plain.seen, unit.positions.back() + 1);
    const int32_t loud = n > 0 ? Between(random, 0, n - 1) : 0;
    for (int32_t j = 0; j < n; ++j) {
      double value_scale = shape.numbers == Numbers::kZeroValues ? 0 : 1;
      if (shape.numbers == Numbers::kLoudToken && j == loud) value_scale = 1000;
      if (shape.numbers == Numbers::kTinyMasses) {
        unit.keys.insert(unit.keys.end(), static_cast<size_t>(shape.head_dim),
                         Rounded(shape.dtype, tiny_logit(j) / std::sqrt(static_cast<double>(shape.head_dim))));
      } else {
        for (int32_t x = 0; x < shape.head_dim; ++x) unit.keys.push_back(draw(shape.dtype, key_scale));
      }
      for (int32_t x = 0; x < shape.head_dim; ++x) unit.values.push_back(draw_value(value_scale));
    }
    plain.contents.units.push_back(std::move(unit));
  }
  plain.seen = std::max<int64_t>(plain.seen, shape.rows) + (shape.gaps ? Between(random, 0, 5) : 0);

  std::vector<int64_t>& rows = plain.contents.row_positions;
  switch (shape.window) {
    case Rows::kLast:
      for (int32_t i = 0; i < shape.rows; ++i) rows.push_back(plain.seen - shape.rows + i);
      break;
    case Rows::kScattered: {
      std::vector<int64_t> all;
      for (int64_t p = 0; p < plain.seen; ++p) all.push_back(p);
      std::sample(all.begin(), all.end(), std::back_inserter(rows), shape.rows, random);
      break;
    }
    case Rows::kBlind: {  // all residents move behind the rows
      for (reference::Unit& unit : plain.contents.units) {
        for (int64_t& position : unit.positions) position += shape.rows;
      }
      plain.seen += shape.rows;
      for (size_t u = 0; u < plain.stored.size(); ++u) {
        plain.stored[u] = static_cast<int32_t>(plain.contents.units[u].positions.size());
      }
      for (int32_t i = 0; i < shape.rows; ++i) rows.push_back(i);
      break;
    }
  }
  const int64_t queries = int64_t{shape.layers} * plain.contents.query_heads * shape.rows * shape.head_dim;
  for (int64_t i = 0; i < queries; ++i) plain.contents.queries.push_back(draw_query(query_scale));
  return plain;
}

Shape RandomShape(Random& random, int32_t longest) {
  Shape shape;
  shape.layers = Between(random, 1, 3);
  shape.kv_heads = Between(random, 1, 4);
  shape.group = Between(random, 1, 8);
  shape.head_dim = OneOf<int32_t>(random, {1, 3, 8, 16, 17, 33, 64, 80, 128});
  shape.rows = OneOf<int32_t>(random, {1, 2, 5, 8, 31, 32, 33, 40});
  shape.dtype = OneOf(random, {DType::kF32, DType::kF16, DType::kBF16});
  shape.query_dtype = random() % 4 == 0 ? OneOf(random, {DType::kF32, DType::kF16, DType::kBF16}) : shape.dtype;
  shape.gaps = random() % 2 == 0;
  shape.numbers = OneOf(random, kAllNumbers);
  shape.window = OneOf(random, {Rows::kLast, Rows::kLast, Rows::kLast, Rows::kScattered, Rows::kBlind});
  const int32_t common = Between(random, 1, longest);
  const bool ragged = random() % 2 == 0;
  for (int32_t u = 0; u < shape.layers * shape.kv_heads; ++u) {
    shape.lengths.push_back(ragged ? Between(random, 0, common) : common);
  }
  return shape;
}

Policy RandomPolicy(Random& random) {
  const std::vector<std::string> presets = PresetNames();
  if (random() % 2 == 0) return *Preset(presets[random() % presets.size()]);
  Policy policy;
  policy.name = "random";
  policy.window = OneOf<int32_t>(random, {1, 4, 7, 32, 100});
  policy.signal.kind = OneOf(random, {Signal::Kind::kSoftmax, Signal::Kind::kStepGainSoftmax});
  if (policy.signal.kind == Signal::Kind::kStepGainSoftmax) {
    policy.signal.g_min_ppm = OneOf<int64_t>(random, {0, 500'000, kPpm, 2'500'000});
  }
  policy.accumulate = OneOf(random, {Accumulate::kSum, Accumulate::kMean, Accumulate::kMax});
  policy.group = OneOf(random, {Group::kMean, Group::kMax, Group::kSum});
  for (int32_t i = Between(random, 0, 3); i > 0; --i) {
    Refinement r;
    r.kind = OneOf(random, {Refinement::Kind::kMaxPool, Refinement::Kind::kAvgPool, Refinement::Kind::kValuePrior,
                            Refinement::Kind::kClampToMean});
    r.pool = OneOf<int32_t>(random, {1, 3, 5, 7, 31, 1001});
    r.edge = OneOf(random, {Refinement::Edge::kPadded, Refinement::Edge::kValid});
    r.norm = OneOf(random, {Refinement::Norm::kL2Squared, Refinement::Norm::kL2});
    r.scale = OneOf(random, {Refinement::Scale::kMax, Refinement::Scale::kMean, Refinement::Scale::kNone});
    policy.refine.push_back(r);
  }
  policy.protect.sinks = OneOf<int32_t>(random, {0, 0, 1, 4, 50});
  policy.protect.recent_kind =
      OneOf(random, {Protect::Recent::kTokens, Protect::Recent::kTokens, Protect::Recent::kBudgetMinus});
  policy.protect.recent = OneOf<int32_t>(random, {0, 1, 4, 32});
  if (policy.protect.recent_kind == Protect::Recent::kBudgetMinus) {  // k - recent and the sinks must fit into k
    policy.protect.sinks = std::min(policy.protect.sinks, policy.protect.recent);
  }
  policy.head.kind =
      OneOf(random, {HeadBudget::Kind::kUniform, HeadBudget::Kind::kAdaFloor, HeadBudget::Kind::kAdaBlend});
  policy.head.alpha_ppm = OneOf<int64_t>(random, {0, 1, 200'000, 333'333, 500'000, kPpm});
  return policy;
}

}  // namespace kvsteward::engine
