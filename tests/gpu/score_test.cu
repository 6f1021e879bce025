// LaunchScore against a naive loop in float64, and against itself: other groups of units, other places of the blocks.
#include "kernels/cuda/score.h"

#include <cmath>
#include <limits>

#include "kernels/cuda/bad_token.h"
#include "tests/gpu/paged_model.h"

namespace kvsteward::gpu_test {
namespace {

using engine::cuda::kBadNormaliser;
using engine::cuda::kNoBadToken;
using engine::cuda::LaunchScore;
using engine::cuda::ResetBadTokens;
using engine::cuda::ScoreArgs;
using engine::cuda::ScoreWorkspaceBytes;

constexpr double kLog2E = 1.4426950408889634;
constexpr float kUnwritten = -7.0f;
constexpr size_t kGuard = 64;  // numbers behind the last resident's that nobody may touch

enum class Keys { kRandom, kEqual, kTiny, kLoud };

struct Case {
  std::vector<int32_t> lengths = kEmulated ? std::vector{70, 1, 0, 513, 64, 30} : std::vector{700, 1, 0, 513, 64, 1537};
  int32_t kv_heads = 2;
  int32_t dim = 128;
  DType dtype = DType::kBF16;
  DType query_dtype = DType::kBF16;
  int32_t group = 4;
  int32_t window_rows = 32;
  int32_t first_row = 0;
  int32_t back = 0;  // how far the window's last row lies before the newest token
  float stored_share = 0.6f;
  Keys keys = Keys::kRandom;
  double gain = 1.7;
  bool scale_by_unit = false;
  double exponent = 1;
  bool softmax1 = false;
  bool mean_rows = false, max_rows = false, mean_heads = false, max_heads = false;
  bool attention = true;
  int32_t rows() const { return window_rows - first_row; }
};

struct Problem {
  Case c;
  PagedModel model;
  std::vector<std::byte> queries;
  std::vector<int32_t> positions;  // [rows]
  std::vector<float> scale;        // [units][rows]

  Problem(Random& random, const Case& the_case)
      : c(the_case), model(random, c.lengths, c.kv_heads, c.dim, c.dtype, c.stored_share, 3) {
    const auto dim = static_cast<size_t>(c.dim);
    for (size_t unit = 0; unit < model.length.size(); ++unit) {
      for (int32_t j = 0; j < model.length[unit]; ++j) {
        for (size_t i = 0; i < dim; ++i) {
          float value = 2 * random.Uniform() - 1;
          if (c.keys == Keys::kEqual) value = 0.5f;
          if (c.keys == Keys::kTiny) value *= 1e-7f;
          if (c.keys == Keys::kLoud) value *= 30;
          StoreNumber(c.dtype, model.Key(unit, j), i, value);
          StoreNumber(c.dtype, model.Value(unit, j), i, std::nanf(""));  // not to be read
        }
      }
    }
    const size_t count = model.length.size() * static_cast<size_t>(c.group * c.window_rows) * dim;
    queries.resize(count * SizeOf(c.query_dtype));
    for (size_t i = 0; i < count; ++i) {
      const bool used = static_cast<int32_t>(i / dim % static_cast<size_t>(c.window_rows)) >= c.first_row;
      StoreNumber(c.query_dtype, queries.data(), i, used ? 3 * random.Uniform() - 1.2f : std::nanf(""));
    }
    int32_t newest = 0;
    for (size_t unit = 0; unit < model.length.size(); ++unit) {
      if (model.length[unit] > 0) newest = std::max(newest, model.Position(unit, model.length[unit] - 1));
    }
    for (int32_t row = 0; row < c.rows(); ++row) positions.push_back(newest - c.back - (c.rows() - 1 - row) * 2);
    for (size_t unit = 0; unit < model.length.size(); ++unit) {
      for (int32_t row = 0; row < c.rows(); ++row) {
        const double gain = c.gain * (1 + 0.01 * row) * (c.scale_by_unit ? 1 + 0.1 * static_cast<double>(unit) : 1);
        scale.push_back(static_cast<float>(gain * kLog2E / std::sqrt(c.dim)));
      }
    }
  }

  std::byte* Query(size_t unit, int32_t head, int32_t row) {
    const size_t index =
        (unit * static_cast<size_t>(c.group) + static_cast<size_t>(head)) * static_cast<size_t>(c.window_rows) +
        static_cast<size_t>(c.first_row + row);
    return queries.data() + index * static_cast<size_t>(c.dim) * SizeOf(c.query_dtype);
  }
};

struct Expected {
  std::vector<double> scores, attention;
  std::vector<double> slack;          // [units] max |scaled logit|, in natural terms
  std::vector<float> log_normaliser;  // [units][group][rows]
};

Expected Reference(Problem& p) {
  const Case& c = p.c;
  const auto dim = static_cast<size_t>(c.dim);
  Expected out;
  for (size_t unit = 0; unit < p.model.length.size(); ++unit) {
    const auto n = static_cast<size_t>(p.model.length[unit]);
    std::vector<double> scores(n), attention(n), logits(n);
    double loudest = 0;
    std::vector<double> keys(n * dim), query(dim);
    for (size_t i = 0; i < keys.size(); ++i) {
      keys[i] = LoadNumber(c.dtype, p.model.Key(unit, static_cast<int32_t>(i / dim)), i % dim);
    }
    for (int32_t head = 0; head < c.group; ++head) {
      std::vector<double> column(n);
      for (int32_t row = 0; row < c.rows(); ++row) {
        const double scale =
            double{p.scale[(c.scale_by_unit ? unit : 0) * static_cast<size_t>(c.rows()) + static_cast<size_t>(row)]} /
            kLog2E;
        for (size_t i = 0; i < dim; ++i) query[i] = LoadNumber(c.query_dtype, p.Query(unit, head, row), i);
        size_t visible = 0;
        double top = c.softmax1 ? 0 : -INFINITY;
        for (size_t j = 0; j < n; ++j) {
          if (p.model.Position(unit, static_cast<int32_t>(j)) > p.positions[static_cast<size_t>(row)]) continue;
          ++visible;
          double logit = 0;
          for (size_t i = 0; i < dim; ++i) logit += query[i] * keys[j * dim + i];
          logits[j] = logit * scale;
          loudest = std::max(loudest, std::fabs(logits[j]));
          top = std::max(top, logits[j]);
        }
        double sum = 0;
        for (size_t j = 0; j < visible; ++j) sum += std::exp(logits[j] - top);
        out.log_normaliser.push_back(visible == 0 ? -INFINITY : static_cast<float>(top + std::log(sum)));
        if (c.softmax1) sum += std::exp(-top);
        for (size_t j = 0; j < visible; ++j) {
          const double a = std::pow(std::exp(logits[j] - top) / sum, c.exponent);
          column[j] = c.max_rows ? std::max(column[j], a) : column[j] + a / (c.mean_rows ? c.rows() : 1);
          attention[j] += a / (double{1} * c.group * c.rows());
        }
      }
      for (size_t j = 0; j < n; ++j) {
        const double a = column[j] < 0x1p-100 ? 0 : column[j];
        scores[j] = c.max_heads ? std::max(scores[j], a) : scores[j] + a / (c.mean_heads ? c.group : 1);
      }
    }
    out.scores.insert(out.scores.end(), scores.begin(), scores.end());
    out.attention.insert(out.attention.end(), attention.begin(), attention.end());
    out.slack.push_back(loudest);
  }
  return out;
}

struct Result {
  std::vector<float> scores, attention;
  std::vector<int64_t> bad;
};

Result OnDevice(const Problem& p, const std::vector<float>& log_normaliser, int32_t at_a_time) {
  const Case& c = p.c;
  const PagedOnDevice device(p.model);
  const DeviceArray<std::byte> queries(p.queries);
  const DeviceArray<int32_t> positions(p.positions);
  const DeviceArray<float> scale(p.scale);
  const DeviceArray<float> normaliser(log_normaliser);
  const size_t tokens = static_cast<size_t>(p.model.tokens());
  const DeviceArray<float> scores(std::vector<float>(tokens + kGuard, kUnwritten));
  const DeviceArray<float> attention(std::vector<float>(tokens + kGuard, kUnwritten));
  const DeviceArray<int64_t> bad(static_cast<size_t>(p.model.units()));
  ScoreArgs args;
  args.pool = device.pool;
  args.units = device.units;
  args.head_dim = c.dim;
  args.group = c.group;
  args.dtype = c.dtype;
  args.queries = queries.data();
  args.query_dtype = c.query_dtype;
  args.window_rows = c.window_rows;
  args.first_row = c.first_row;
  args.rows = c.rows();
  args.positions = positions.data();
  args.scale = scale.data();
  args.scale_stride = c.scale_by_unit ? c.rows() : 0;
  args.exponent = c.exponent;
  args.softmax1 = c.softmax1;
  args.log_normaliser = log_normaliser.empty() ? nullptr : normaliser.data();
  args.mean_rows = c.mean_rows;
  args.max_rows = c.max_rows;
  args.mean_heads = c.mean_heads;
  args.max_heads = c.max_heads;
  args.scores = scores.data();
  args.attention = c.attention ? attention.data() : nullptr;
  args.bad = bad.data();
  const DeviceArray<std::byte> workspace(ScoreWorkspaceBytes(args, at_a_time));
  CHECK_CUDA(cudaMemset(workspace.data(), 0xff, workspace.size()));  // NaN: what is read was written
  CHECK_CUDA(ResetBadTokens(bad.data(), p.model.units(), nullptr));
  CHECK_CUDA(LaunchScore(args, at_a_time, workspace.data(), nullptr));
  CHECK_CUDA(cudaDeviceSynchronize());
  return {scores.Read(), attention.Read(), bad.Read()};
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

// `wide`: by how much more the normaliser that the caller gave, a float, may be off.
void Compare(const Problem& p, const std::vector<double>& expected, const std::vector<double>& slack,
             const std::vector<float>& got, bool written, double wide) {
  for (size_t unit = 0; unit < p.model.length.size(); ++unit) {
    const auto begin = static_cast<size_t>(p.model.offset[unit]);
    const auto end = static_cast<size_t>(p.model.offset[unit + 1]);
    double mean = 0;
    for (size_t j = begin; j < end; ++j) mean += expected[j] / static_cast<double>(end - begin);
    const double relative = (1e-4 + 0x1p-21 * slack[unit]) * p.c.exponent * wide;
    size_t wrong = 0;
    for (size_t j = begin; j < end; ++j) {
      const double most = written ? relative * std::max(expected[j], mean) + 0x1p-100 : 0;
      if (!(std::fabs(got[j] - (written ? expected[j] : double{kUnwritten})) <= most)) ++wrong;
    }
    if (!CHECK(wrong == 0)) {
      std::printf("  unit %zu: %zu of %zu, dim %d, group %d, rows %d, types %d %d\n", unit, wrong, end - begin, p.c.dim,
                  p.c.group, p.c.rows(), static_cast<int>(p.c.dtype), static_cast<int>(p.c.query_dtype));
    }
  }
  for (size_t j = expected.size(); j < got.size(); ++j) CHECK(got[j] == kUnwritten);
}

void Score(Random& random, const Case& c) {
  Problem p(random, c);
  const Expected expected = Reference(p);
  const Result result = OnDevice(p, {}, 0);
  CHECK(result.bad == std::vector<int64_t>(p.model.length.size(), kNoBadToken));
  Compare(p, expected.scores, expected.slack, result.scores, true, 1);
  Compare(p, expected.attention, expected.slack, result.attention, c.attention, 1);
  const Result one_pass = OnDevice(p, expected.log_normaliser, 2);
  CHECK(one_pass.bad == result.bad);
  Compare(p, expected.scores, expected.slack, one_pass.scores, true, 2);
  p.model.Strew(random);
  const Result again = OnDevice(p, {}, 1 + static_cast<int32_t>(random.Below(4)));
  CHECK(SameBits(again.scores, result.scores));
  CHECK(SameBits(again.attention, result.attention));
}

void BadNumbers(Random& random, const Case& c, float bad_number) {
  const auto none = std::vector<int64_t>(c.lengths.size(), kNoBadToken);
  Problem p(random, c);
  const std::vector<float> normaliser = Reference(p).log_normaliser;
  std::vector<int64_t> expected = none;
  Problem keys = p;
  for (size_t unit = 0; unit < c.lengths.size(); ++unit) {
    for (int repeat = 0; repeat < 2 && c.lengths[unit] > 0; ++repeat) {
      const auto j = static_cast<int32_t>(random.Below(static_cast<uint64_t>(c.lengths[unit])));
      StoreNumber(c.dtype, keys.model.Key(unit, j), random.Below(static_cast<uint64_t>(c.dim)), bad_number);
      expected[unit] = std::min<int64_t>(expected[unit], j);
    }
  }
  CHECK(OnDevice(keys, {}, 0).bad == expected);
  CHECK(OnDevice(keys, normaliser, 0).bad == expected);
  Problem query = p;
  expected = none;
  expected[3] = 0;
  StoreNumber(c.query_dtype, query.Query(3, c.group - 1, c.rows() - 1), static_cast<size_t>(c.dim - 1), bad_number);
  CHECK(OnDevice(query, {}, 0).bad == expected);
  std::vector<float> wrong = normaliser;
  wrong[0] = std::nanf("");  // of unit 0
  expected = none;
  expected[0] = kBadNormaliser;
  CHECK(OnDevice(p, wrong, 0).bad == expected);
}

// One case of every kernel.
void RunSmall() {
  Random random(7);
  const std::vector<int32_t> lengths = {530, 1, 0, 65};
  for (const int32_t dim : {128, 64, 24}) {
    Score(random, {.lengths = lengths, .dim = dim});
    Score(random, {.lengths = lengths, .dim = dim, .window_rows = 33, .mean_rows = true});
    Score(random, {.lengths = lengths, .dim = dim, .group = 5, .max_rows = true, .max_heads = true});
    BadNumbers(random, {.lengths = lengths, .dim = dim}, std::nanf(""));
  }
}

void RunAll() {
  Random random(7);
  constexpr DType kBF16 = DType::kBF16, kF16 = DType::kF16, kF32 = DType::kF32;
  Score(random, {});
  for (const int32_t dim : {128, 16, 64, 80, 96, 192, 256, 24, 7, 320}) {
    Score(random, {.dim = dim, .dtype = kBF16, .query_dtype = kBF16});
    Score(random, {.dim = dim, .dtype = kF16, .query_dtype = kF16, .mean_rows = true, .mean_heads = true});
  }
  Score(random, {.dtype = kF32, .query_dtype = kF32});
  Score(random, {.dtype = kBF16, .query_dtype = kF32});
  Score(random, {.dtype = kF32, .query_dtype = kF16});
  Score(random, {.dtype = kF16, .query_dtype = kBF16});
  for (const int32_t dim : {128, 64}) {  // rows in registers, and not
    for (const int32_t rows : {1, 5, 8, 20, 31, 33, 70, 300}) {
      Score(random, {.dim = dim, .window_rows = rows});
      Score(random, {.dim = dim, .group = 3, .window_rows = rows, .max_rows = true, .max_heads = true});
    }
    Score(random, {.dim = dim, .group = 1, .window_rows = 40, .first_row = 9, .mean_heads = true});
    Score(random, {.dim = dim, .group = 9, .scale_by_unit = true, .mean_rows = true, .max_heads = true});
    Score(random, {.dim = dim, .back = 300, .attention = false});
    Score(random, {.dim = dim, .back = 900, .stored_share = 1.0f, .softmax1 = true});
    Score(random, {.dim = dim, .back = 30, .stored_share = 0.0f, .exponent = 2});
    Score(random, {.dim = dim, .back = 100'000});  // no row sees anything
    Score(random, {.dim = dim, .exponent = 2.5, .softmax1 = true, .max_rows = true});
    for (const Keys keys : {Keys::kEqual, Keys::kTiny, Keys::kLoud}) {
      Score(random, {.dim = dim, .back = 5, .keys = keys, .gain = 1});
      Score(random, {.dim = dim, .keys = keys, .gain = 3, .softmax1 = true, .mean_rows = true});
    }
    Score(random, {.lengths = {0, 0}, .dim = dim});
    Score(random, {.lengths = {1}, .kv_heads = 1, .dim = dim});
    Score(random, {.lengths = {kEmulated ? 1'537 : 20'003, 511, 512, 513}, .dim = dim, .window_rows = 32});
    for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
      BadNumbers(random, {.dim = dim, .back = 40}, bad);
    }
  }
  BadNumbers(random, {.dtype = kF32, .query_dtype = kF32}, -std::numeric_limits<float>::infinity());
  BadNumbers(random, {.dtype = kF16, .query_dtype = kF16, .group = 1, .window_rows = 3}, std::nanf(""));
}

}  // namespace
}  // namespace kvsteward::gpu_test

int main() {
  if (kvsteward::gpu_test::Small()) {
    kvsteward::gpu_test::RunSmall();
  } else {
    kvsteward::gpu_test::RunAll();
  }
  return kvsteward::gpu_test::TestResult();
}
