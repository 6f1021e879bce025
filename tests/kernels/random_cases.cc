#include "tests/kernels/random_cases.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

namespace kvsteward::engine {
namespace {

double Uniform(Random& random, double low, double high) {
  return std::uniform_real_distribution<double>(low, high)(random);
}

// Nearly: the sum of four uniform numbers, scaled to a variance of 1.
double Gaussian(Random& random) {
  const uint64_t bits = uint64_t{static_cast<uint32_t>(random())} << 32 | static_cast<uint32_t>(random());
  double sum = 0;
  for (int part = 0; part < 4; ++part) sum += static_cast<double>(bits >> (16 * part) & 0xffff) / 65536.0;
  return (sum - 2) * std::numbers::sqrt3;
}

// Half gaussian, half below what the dtype holds with all its digits. Not so small that digits run out.
double MaybeDenormal(Random& random, DType dtype) {
  if (random() % 2 == 0) return Gaussian(random);
  const double sign = random() % 2 == 0 ? 1 : -1;
  return sign * std::ldexp(Uniform(random, 1, 2), dtype == DType::kF16 ? -17 : -130);
}

void AddKey(Random& random, const Shape& shape, bool first, reference::Row* keys) {
  const double root = std::sqrt(static_cast<double>(shape.head_dim));
  const double tiny = (first ? 100 : Uniform(random, -8, 8)) * std::numbers::ln2 / root;
  const double spread = std::pow(10.0, Uniform(random, -6, 2));
  for (int32_t x = 0; x < shape.head_dim; ++x) {
    double value = Gaussian(random);
    switch (shape.numbers) {
      case Numbers::kFewDistinct:
        value = static_cast<double>(random() % 2);
        break;
      case Numbers::kHugeLogits:
        value *= 20;
        break;
      case Numbers::kTinyMasses:  // the same number d times: the token's logit over sqrt(d)
        value = tiny;
        break;
      case Numbers::kDenormals:
        value = MaybeDenormal(random, shape.dtype);
        break;
      case Numbers::kSpread:
        value *= spread;
        break;
      default:
        break;
    }
    keys->push_back(Rounded(shape.dtype, value));
  }
}

void AddValue(Random& random, const Shape& shape, bool loud, reference::Row* values) {
  const double spread = std::pow(10.0, Uniform(random, -6, 2));
  const double huge = shape.dtype == DType::kF16 ? 3e4 : std::sqrt(1e38 / shape.head_dim);
  for (int32_t x = 0; x < shape.head_dim; ++x) {
    double value = Gaussian(random);
    switch (shape.numbers) {
      case Numbers::kZeroValues:
        value = 0;
        break;
      case Numbers::kLoudToken:
        value *= loud ? 1000 : 1;
        break;
      case Numbers::kFewDistinct:
        value = static_cast<double>(random() % 2);
        break;
      case Numbers::kHugeValues:
        value = (random() % 2 == 0 ? 1 : -1) * huge * Uniform(random, 0.5, 1.5);
        break;
      case Numbers::kDenormals:
        value = MaybeDenormal(random, shape.dtype);
        break;
      case Numbers::kSpread:
        value *= spread;
        break;
      default:
        break;
    }
    values->push_back(Rounded(shape.dtype, value));
  }
}

double DrawQuery(Random& random, const Shape& shape) {
  switch (shape.numbers) {
    case Numbers::kNoSignal:
      return 0;
    case Numbers::kHugeLogits:
      return Rounded(shape.query_dtype, 100 * Gaussian(random));
    case Numbers::kFewDistinct:
      return static_cast<double>(random() % 2);
    case Numbers::kTinyMasses:
      return Rounded(shape.query_dtype, 1 + 0.02 * Gaussian(random));
    case Numbers::kDenormals:
      return Rounded(shape.query_dtype, MaybeDenormal(random, shape.query_dtype));
    default:
      return Rounded(shape.query_dtype, Gaussian(random));
  }
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

// Numbers of at least 0, of one kind of trouble each; exact in f32.
std::vector<reference::Row> MakeWorths(Random& random, const PlainSequence& plain) {
  const uint32_t kind = random() % 8;
  std::vector<reference::Row> worths;
  for (const reference::Unit& unit : plain.contents.units) {
    worths.emplace_back();
    for (size_t j = 0; j < unit.positions.size(); ++j) {
      double worth = Uniform(random, 0, 4);
      if (kind == 0) worth = 0;
      if (kind == 1) worth = static_cast<double>(random() % 3);
      if (kind == 2) worth = std::ldexp(worth, -static_cast<int>(random() % 130));
      if (kind == 3 && random() % 2 == 0) worth = 0;
      worths.back().push_back(static_cast<float>(worth));
    }
  }
  return worths;
}

reference::Inputs MakeInputs(Random& random, const Shape& shape, const PlainSequence& plain) {
  reference::Inputs inputs;
  const uint32_t classes = 1 + random() % 3;
  const bool high = random() % 4 == 0;
  for (int64_t p = 0; p < plain.seen; ++p) {
    const auto which = static_cast<int>(random() % classes);
    inputs.classes.push_back(high && which == 1 ? 255 : which);
  }
  inputs.scores = MakeWorths(random, plain);
  inputs.projected_norms = MakeWorths(random, plain);
  if (!shape.moments) return inputs;
  const auto d = static_cast<size_t>(shape.head_dim);
  const double scale = random() % 4 == 0 ? 0 : Uniform(random, 0.1, 1);
  for (int32_t h = 0; h < shape.layers * shape.kv_heads * shape.group; ++h) {
    reference::Row factor;  // the covariance is its square, and not symmetric to the last digit
    for (size_t i = 0; i < d * d; ++i) factor.push_back(scale * Gaussian(random));
    for (size_t x = 0; x < d; ++x) {
      inputs.query_mean.push_back(static_cast<float>(scale * Gaussian(random)));
      for (size_t y = 0; y < d; ++y) {
        double sum = 0.001 * scale * Gaussian(random);
        for (size_t z = 0; z < d; ++z) sum += factor[x * d + z] * factor[y * d + z] / static_cast<double>(d);
        inputs.query_covariance.push_back(static_cast<float>(sum));
      }
    }
  }
  return inputs;
}

}  // namespace

int32_t Between(Random& random, int32_t low, int32_t high) {
  return low + static_cast<int32_t>(random() % static_cast<uint32_t>(high - low + 1));
}

PlainSequence MakeSequence(Random& random, const Shape& shape) {
  PlainSequence plain;
  plain.dtype = shape.dtype;
  plain.query_dtype = shape.query_dtype;
  plain.contents.layers = shape.layers;
  plain.contents.kv_heads = shape.kv_heads;
  plain.contents.query_heads = shape.kv_heads * shape.group;
  plain.contents.head_dim = shape.head_dim;
  const int64_t behind = shape.window == Rows::kBlind ? shape.rows : 0;  // all residents lie behind the rows
  for (size_t u = 0; u < shape.lengths.size(); ++u) {
    reference::Unit unit;
    const bool same = shape.equal && u % static_cast<size_t>(shape.kv_heads) > 0;
    int32_t stored = same ? plain.stored.back() : 0;
    if (same) {
      unit.positions = plain.contents.units.back().positions;
    } else {
      unit.positions = MakePositions(random, shape.lengths[u], shape.gaps, &stored);
      for (int64_t& position : unit.positions) position += behind;
      if (behind > 0) stored = static_cast<int32_t>(unit.positions.size());
    }
    plain.stored.push_back(stored);
    const size_t n = unit.positions.size();
    if (n > 0) plain.seen = std::max(plain.seen, unit.positions.back() + 1);
    const size_t loud = n > 0 ? random() % n : 0;
    for (size_t j = 0; j < n; ++j) {
      AddKey(random, shape, j == 0, &unit.keys);
      AddValue(random, shape, j == loud, &unit.values);
    }
    plain.contents.units.push_back(std::move(unit));
  }
  plain.seen = std::max<int64_t>(plain.seen, shape.rows) + (shape.gaps ? Between(random, 0, 5) : 0);
  Request request = MakeRequest(random, shape, plain);
  plain.contents.queries = std::move(request.queries);
  plain.contents.row_positions = std::move(request.row_positions);
  plain.contents.inputs = std::move(request.inputs);
  return plain;
}

std::vector<reference::Unit> MakeTokens(Random& random, const Shape& shape, int32_t count) {
  std::vector<reference::Unit> tokens(shape.lengths.size());
  for (reference::Unit& unit : tokens) {
    for (int32_t j = 0; j < count; ++j) {
      AddKey(random, shape, false, &unit.keys);
      AddValue(random, shape, random() % 20 == 0, &unit.values);
    }
  }
  return tokens;
}

Request MakeRequest(Random& random, const Shape& shape, const PlainSequence& plain, std::vector<int64_t> rows) {
  Request request;
  const size_t queries =
      static_cast<size_t>(shape.layers * shape.kv_heads * shape.group * shape.head_dim) * rows.size();
  for (size_t i = 0; i < queries; ++i) request.queries.push_back(DrawQuery(random, shape));
  request.row_positions = std::move(rows);
  request.inputs = MakeInputs(random, shape, plain);
  return request;
}

Request MakeRequest(Random& random, const Shape& shape, const PlainSequence& plain) {
  std::vector<int64_t> rows;
  const int64_t first = shape.window == Rows::kLast ? plain.seen - shape.rows : 0;
  if (shape.window == Rows::kScattered) {
    std::vector<int64_t> all;
    for (int64_t p = 0; p < plain.seen; ++p) all.push_back(p);
    std::sample(all.begin(), all.end(), std::back_inserter(rows), shape.rows, random);
  } else {
    for (int32_t i = 0; i < shape.rows; ++i) rows.push_back(first + i);
  }
  return MakeRequest(random, shape, plain, std::move(rows));
}

void MakeRunning(Random& random, const Shape& shape, PlainSequence* plain) {
  plain->contents.observed = plain->seen - Between(random, 0, static_cast<int32_t>(std::min<int64_t>(plain->seen, 40)));
  const uint32_t kind = random() % 3;
  std::vector<reference::Unit>& units = plain->contents.units;
  for (size_t u = 0; u < units.size(); ++u) {
    if (shape.equal && u % static_cast<size_t>(shape.kv_heads) > 0) {  // one score row for the layer
      units[u].running = units[u - 1].running;
      continue;
    }
    for (const int64_t position : units[u].positions) {
      if (position >= plain->contents.observed) break;
      const double score = kind == 0 ? 0 : kind == 1 ? Uniform(random, 0, 9) : std::pow(10.0, Uniform(random, -12, 3));
      units[u].running.push_back(static_cast<float>(score));
    }
  }
}

Shape RandomShape(Random& random, int32_t longest) {
  Shape shape;
  shape.layers = Between(random, 1, 3);
  shape.kv_heads = Between(random, 1, 4);
  shape.group = OneOf<int32_t>(random, {1, 1, 2, 2, 3, 4, 7});
  // Multiples of 32 go to AMX where there is one and all is bf16.
  shape.head_dim = OneOf<int32_t>(random, {1, 3, 5, 8, 13, 16, 17, 32, 33, 64});
  shape.rows = OneOf<int32_t>(random, {1, 2, 5, 8, 31, 32, 33, 40});
  shape.dtype = OneOf(random, {DType::kF32, DType::kF16, DType::kBF16});
  shape.query_dtype = random() % 4 == 0 ? OneOf(random, {DType::kF32, DType::kF16, DType::kBF16}) : shape.dtype;
  shape.gaps = random() % 2 == 0;
  shape.numbers = OneOf(random, kAllNumbers);
  shape.window = OneOf(random, {Rows::kLast, Rows::kLast, Rows::kLast, Rows::kScattered, Rows::kBlind});
  const int32_t common = Between(random, random() % 4 == 0 ? 1 : (longest + 1) / 2, longest);
  const bool ragged = random() % 2 == 0;
  for (int32_t u = 0; u < shape.layers * shape.kv_heads; ++u) {
    shape.lengths.push_back(ragged ? Between(random, 0, common) : common);
  }
  return shape;
}

}  // namespace kvsteward::engine
