// Stages 1 to 3 on the host against naive float64 sums: every signal, accumulation and way to group, where their tiles,
// chunks and pools meet.
#include "kernels/cpu/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/plan/row.h"

namespace kvsteward::engine::cpu {
namespace {

struct Shape {
  int32_t group = 1;
  int32_t kv_heads = 1;
  int32_t dim = 8;
  std::vector<int32_t> lengths;  // [kv_heads]
  std::vector<int32_t> rows;     // their positions
  int32_t seen = 0;
  DType dtype = DType::kF32;
  double loudness = 1;  // of the queries
};

// One layer in scattered blocks; memory without tokens is NaN. Half of a unit's tokens survived an eviction, so that
// their positions have gaps.
class Layer {
 public:
  Layer(const Shape& shape, uint32_t seed) : shape_(shape), random_(seed) {
    geometry_ = {1, shape.group * shape.kv_heads, shape.kv_heads, shape.dim, shape.dtype};
    uint32_t blocks = 1;
    for (const int32_t length : shape.lengths) blocks += 2 * BlocksFor(static_cast<uint64_t>(length));
    data_.assign(blocks * geometry_.block_bytes(), std::byte{0xff});
    positions_.assign(size_t{blocks} * kBlockTokens, -1'000'000);
    pool_ = {data_.data(), geometry_.block_bytes(), positions_.data(), nullptr, nullptr};
    rows_.resize(shape.lengths.size());
    uint32_t next = 1;
    for (size_t head = 0; head < rows_.size(); ++head) {
      const int32_t length = shape.lengths[head];
      for (uint32_t block = 0; block < BlocksFor(static_cast<uint64_t>(length)); ++block, next += 2) {
        rows_[head].push_back({next, 1});
      }
      const int32_t stored = length / 2;
      const int32_t appended = shape.seen - (length - stored);
      units_.push_back({rows_[head], length, stored, appended, 0, 0});
      std::vector<int32_t> places(static_cast<size_t>(appended));
      for (int32_t i = 0; i < appended; ++i) places[static_cast<size_t>(i)] = i;
      std::vector<int32_t> survived;
      std::ranges::sample(places, std::back_inserter(survived), stored, random_);
      for (int32_t j = 0; j < length; ++j) Place(head, j, j < stored ? survived[static_cast<size_t>(j)] : 0);
    }
    for (int32_t i = 0; i < shape.seen; ++i) classes_.push_back(static_cast<uint8_t>(random_() % 3));
    queries_.resize(static_cast<size_t>(geometry_.query_heads) * shape.rows.size() * geometry_.token_bytes());
    for (size_t at = 0; at < queries_.size(); at += SizeOf(shape.dtype)) Put(shape.loudness, &queries_[at]);
  }

  SequenceView View() const {
    SequenceView view;
    view.geometry = geometry_;
    view.pool = pool_;
    view.units = units_;
    view.window = {queries_.data(), shape_.dtype, static_cast<int32_t>(shape_.rows.size()), shape_.rows};
    view.inputs.classes = classes_;
    view.seen = shape_.seen;
    return view;
  }

  double Get(const std::byte* from) const {
    float value = 0;
    uint16_t half = 0;
    if (shape_.dtype == DType::kF32) {
      std::memcpy(&value, from, sizeof(value));
      return value;
    }
    std::memcpy(&half, from, sizeof(half));
    return std::bit_cast<float>(static_cast<uint32_t>(half) << 16);
  }
  std::byte* Key(int32_t head, int32_t j) const {
    const uint32_t block = BlockOf(units_[static_cast<size_t>(head)].row, static_cast<uint32_t>(j / kBlockTokens));
    return pool_.keys(block) + static_cast<size_t>(j % kBlockTokens) * geometry_.token_bytes();
  }
  std::byte* Query(int32_t query_head, int32_t row) {
    return &queries_[(static_cast<size_t>(query_head) * shape_.rows.size() + static_cast<size_t>(row)) *
                     geometry_.token_bytes()];
  }
  double Dot(const std::byte* a, const std::byte* b) const {
    double sum = 0;
    for (int32_t i = 0; i < shape_.dim; ++i, a += SizeOf(shape_.dtype), b += SizeOf(shape_.dtype))
      sum += Get(a) * Get(b);
    return sum;
  }
  int32_t Position(int32_t head, int32_t j) const { return PositionOf(units_[static_cast<size_t>(head)], pool_, j); }
  int32_t ClassAt(int32_t position) const { return classes_[static_cast<size_t>(position)]; }
  const Shape& shape() const { return shape_; }

 private:
  void Put(double loudness, std::byte* to) {
    const auto value = static_cast<float>(loudness * std::normal_distribution<double>()(random_));
    const auto half = static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
    if (shape_.dtype == DType::kF32) {
      std::memcpy(to, &value, sizeof(value));
    } else {
      std::memcpy(to, &half, sizeof(half));
    }
  }
  void Place(size_t head, int32_t j, int32_t position) {
    std::byte* key = Key(static_cast<int32_t>(head), j);
    for (int32_t i = 0; i < shape_.dim; ++i) Put(1, key + static_cast<size_t>(i) * SizeOf(shape_.dtype));
    if (j >= units_[head].stored) return;
    const uint32_t block = BlockOf(units_[head].row, static_cast<uint32_t>(j / kBlockTokens));
    positions_[static_cast<size_t>(block) * kBlockTokens + static_cast<size_t>(j % kBlockTokens)] = position;
  }

  Shape shape_;
  std::mt19937 random_;
  Geometry geometry_;
  std::vector<std::byte> data_;
  std::vector<int32_t> positions_;
  PoolView pool_;
  std::vector<std::vector<Run>> rows_;
  std::vector<UnitView> units_;
  std::vector<uint8_t> classes_;
  std::vector<std::byte> queries_;
};

struct Expected {
  std::vector<double> scores;  // [n], or [group][n] with the group after the refinements
  std::vector<double> attention;
  std::vector<double> cross;
  std::vector<double> self;
  double greatest_logit = 0;
};

using Column = std::vector<double>;

double Flush(double score) { return score < 0x1p-100 ? 0 : score; }

// The average pool of a row, rescaled to the row's sum.
Column Pooled(const Column& row, int32_t width) {
  const auto n = static_cast<int32_t>(row.size());
  Column pooled(row.size());
  double before = 0, after = 0;
  for (int32_t j = 0; j < n; ++j) {
    for (int32_t t = std::max(0, j - width / 2); t <= std::min(n - 1, j + width / 2); ++t) {
      pooled[static_cast<size_t>(j)] += row[static_cast<size_t>(t)] / width;
    }
    before += row[static_cast<size_t>(j)];
    after += pooled[static_cast<size_t>(j)];
  }
  for (double& value : pooled) value *= after > 0 ? before / after : 1;
  return pooled;
}

Column Accumulated(const Accumulate& accumulate, const std::vector<Column>& rows, size_t n) {
  Column scores(n);
  for (size_t j = 0; j < n; ++j) {
    double sum = 0, max = 0, squares = 0;
    for (size_t i = 0; i < rows.size(); ++i) {
      const double weight =
          accumulate.kind != Accumulate::Kind::kRunning
              ? 1
              : std::pow(static_cast<double>(accumulate.decay_ppm) / 1e6, static_cast<double>(rows.size() - 1 - i));
      sum += weight * rows[i][j];
      max = std::max(max, rows[i][j]);
    }
    const double mean = sum / static_cast<double>(rows.size());
    for (const Column& row : rows) squares += (row[j] - mean) * (row[j] - mean);
    const double variance = squares / static_cast<double>(rows.size());
    switch (accumulate.kind) {
      case Accumulate::Kind::kSum:
      case Accumulate::Kind::kRunning:
        scores[j] = sum;
        break;
      case Accumulate::Kind::kMean:
        scores[j] = mean;
        break;
      case Accumulate::Kind::kMax:
        scores[j] = max;
        break;
      case Accumulate::Kind::kMeanVar:
        scores[j] = mean + static_cast<double>(accumulate.gamma_ppm) / 1e6 * variance;
        break;
    }
    scores[j] = Flush(scores[j]);
  }
  return scores;
}

void AddHead(Group::Kind kind, double heads, const Column& head, Column& group) {
  for (size_t j = 0; j < head.size(); ++j) {
    group[j] = kind == Group::Kind::kMax ? std::max(group[j], head[j])
                                         : group[j] + head[j] / (kind == Group::Kind::kMean ? heads : 1);
  }
}

Expected Naive(Layer& layer, const SequenceView& view, const Policy& policy, int64_t k, int32_t kv_head,
               const CandidateSet& candidates) {
  const Shape& shape = layer.shape();
  const auto n = static_cast<size_t>(shape.lengths[static_cast<size_t>(kv_head)]);
  Expected expected;
  expected.attention.resize(n);
  const bool after = policy.group.place == Group::Place::kAfterRefine;
  if (!after) expected.scores = expected.cross = expected.self = Column(n);
  std::vector<int32_t> used;
  for (int32_t row = 0; row < static_cast<int32_t>(shape.rows.size()); ++row) {
    const bool in_window = policy.window == 0 || row >= static_cast<int32_t>(shape.rows.size()) - policy.window;
    if (in_window && (!policy.running() || shape.rows[static_cast<size_t>(row)] >= view.observed)) used.push_back(row);
  }
  for (int32_t g = 0; g < shape.group; ++g) {
    std::vector<Column> all;
    std::vector<Column> cross;
    std::vector<Column> self;
    for (const int32_t row : used) {
      const int32_t position = shape.rows[static_cast<size_t>(row)];
      double gain = 1;
      if (policy.signal.kind == Signal::Kind::kStepGainSoftmax) {
        gain = std::max(static_cast<double>(policy.signal.g_min_ppm) / 1e6,
                        std::sqrt(2 * std::log(std::max(1.0, (position + 1.0) / static_cast<double>(k)))));
      }
      Column x(n, -std::numeric_limits<double>::infinity());
      double max = -std::numeric_limits<double>::infinity();
      for (size_t j = 0; j < n; ++j) {
        const auto token = static_cast<int32_t>(j);
        if (layer.Position(kv_head, token) > position) continue;
        if (policy.signal.over == Signal::Over::kCandidates && (token < candidates.begin || token >= candidates.end ||
                                                                std::ranges::binary_search(candidates.holes, token))) {
          continue;
        }
        const double logit = layer.Dot(layer.Query(kv_head * shape.group + g, row), layer.Key(kv_head, token));
        x[j] = gain * logit / std::sqrt(shape.dim);
        expected.greatest_logit = std::max(expected.greatest_logit, std::abs(x[j]));
        max = std::max(max, x[j]);
      }
      Column probabilities(n);
      if (std::isfinite(max)) {
        if (policy.signal.kind == Signal::Kind::kSoftmax1) max = std::max(max, 0.0);
        double sum = policy.signal.kind == Signal::Kind::kSoftmax1 ? std::exp(-max) : 0;
        for (size_t j = 0; j < n; ++j) sum += probabilities[j] = std::exp(x[j] - max);
        for (double& p : probabilities) p /= sum;
      }
      const double divisor = static_cast<double>(used.size()) * shape.group;
      for (size_t j = 0; j < n; ++j) expected.attention[j] += probabilities[j] / divisor;
      if (policy.signal.kind == Signal::Kind::kPower) {
        for (double& p : probabilities) p = std::pow(p, static_cast<double>(policy.signal.exponent_ppm) / 1e6);
      }
      all.push_back(Pooled(probabilities, policy.accumulate.row_pool));
      cross.push_back(all.back());
      self.push_back(all.back());
      for (size_t j = 0; j < n; ++j) {
        const bool same = layer.ClassAt(position) == layer.ClassAt(layer.Position(kv_head, static_cast<int32_t>(j)));
        (same ? cross : self).back()[j] = 0;
      }
    }
    const Column head = Accumulated(policy.accumulate, all, n);
    if (after) {
      expected.scores.insert(expected.scores.end(), head.begin(), head.end());
    } else {
      AddHead(policy.group.kind, shape.group, head, expected.scores);
      AddHead(policy.group.kind, shape.group, Accumulated(policy.accumulate, cross, n), expected.cross);
      AddHead(policy.group.kind, shape.group, Accumulated(policy.accumulate, self, n), expected.self);
    }
  }
  return expected;
}

struct Result {
  absl::Status status;
  std::vector<float> scores, attention, cross, self;
  std::vector<std::vector<float>> heads;  // with the group after the refinements
  std::vector<int32_t> order;             // of the kv heads
};

Result ScoreWith(const SequenceView& view, const Policy& policy, int64_t k, std::span<const CandidateSet> candidates,
                 int threads, bool attention, bool classes) {
  size_t total = 0;
  for (const UnitView& unit : view.units) total += static_cast<size_t>(unit.length);
  constexpr float kUnwritten = -7;
  Result result;
  result.scores.assign(total, kUnwritten);
  if (attention) result.attention.assign(total, kUnwritten);
  if (classes) result.cross.assign(total, kUnwritten);
  if (classes) result.self.assign(total, kUnwritten);
  ThreadPool pool(threads);
  AttentionOutput output{result.scores, result.attention, result.cross, result.self, {}};
  output.on_head = [&](int32_t head, std::span<float> scores) {
    result.order.push_back(head);
    result.heads.emplace_back(scores.begin(), scores.end());
    return absl::OkStatus();
  };
  result.status = ScoreAttention(view, policy, k, 0, candidates, pool, output);
  return result;
}

// Closer than the contract, which allows as much of the unit's mean as of the score: all that is added up is positive.
void ExpectNear(std::span<const float> got, std::span<const double> want, double greatest_logit,
                const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (size_t j = 0; j < got.size(); ++j) {
    const double epsilon = (1e-4 + 0x1p-21 * greatest_logit) * want[j] + 0x1p-100;
    ASSERT_NEAR(got[j], want[j], epsilon) << what << " " << j << " of " << got.size();
  }
}

// All that ScoreAttention says of the layer, for one and three threads.
void Check(Layer& layer, const SequenceView& view, const Policy& policy, int64_t k, const std::string& what) {
  const Shape& shape = layer.shape();
  std::vector<CandidateSet> candidates;
  for (const int32_t length : shape.lengths) {
    CandidateSet set;
    set.begin = std::min(3, length);
    set.end = std::max(set.begin, length - 5);
    for (int32_t j = set.begin + 7; j < set.end; j += 61) set.holes.push_back(j);
    candidates.push_back(set);
  }
  const bool after = policy.group.place == Group::Place::kAfterRefine;
  const bool linear =
      policy.accumulate.kind == Accumulate::Kind::kSum || policy.accumulate.kind == Accumulate::Kind::kMean;
  const bool attention = policy.signal.kind != Signal::Kind::kPower && !policy.running();
  const bool classes = linear && policy.group.kind != Group::Kind::kMax && !after;
  const Result plain = ScoreWith(view, policy, k, candidates, 1, false, false);
  const Result one = ScoreWith(view, policy, k, candidates, 1, attention, classes);
  const Result three = ScoreWith(view, policy, k, candidates, 3, attention, classes);
  ASSERT_TRUE(plain.status.ok() && one.status.ok() && three.status.ok()) << one.status;
  EXPECT_EQ(one.scores, three.scores) << what;
  EXPECT_EQ(one.heads, three.heads) << what;
  EXPECT_EQ(one.attention, three.attention) << what;
  EXPECT_EQ(one.cross, three.cross) << what;
  EXPECT_EQ(one.self, three.self) << what;
  size_t offset = 0;
  for (int32_t head = 0; head < shape.kv_heads; ++head) {
    const Expected want = Naive(layer, view, policy, k, head, candidates[static_cast<size_t>(head)]);
    const auto n = static_cast<size_t>(shape.lengths[static_cast<size_t>(head)]);
    const auto part = [&](const std::vector<float>& of) {
      return of.empty() ? std::span<const float>() : std::span(of).subspan(offset, n);
    };
    const std::string place = what + ", kv head " + std::to_string(head);
    if (after) {
      ASSERT_EQ(one.order[static_cast<size_t>(head)], head);
      ExpectNear(one.heads[static_cast<size_t>(head)], want.scores, want.greatest_logit, place);
      ExpectNear(plain.heads[static_cast<size_t>(head)], want.scores, want.greatest_logit, place);
    } else {
      ExpectNear(part(one.scores), want.scores, want.greatest_logit, place);
      ExpectNear(part(plain.scores), want.scores, want.greatest_logit, place);
    }
    if (attention) {
      ExpectNear(part(one.attention), want.attention, want.greatest_logit, place + ", attention");
    }
    if (classes) {
      ExpectNear(part(one.cross), want.cross, want.greatest_logit, place + ", cross");
      ExpectNear(part(one.self), want.self, want.greatest_logit, place + ", self");
      for (size_t j = 0; j < n; ++j) ASSERT_EQ(one.scores[offset + j], one.cross[offset + j] + one.self[offset + j]);
    }
    offset += n;
  }
}

std::vector<int32_t> Rows(int32_t first, int32_t count) {
  std::vector<int32_t> rows;
  for (int32_t i = 0; i < count; ++i) rows.push_back(first + i);
  return rows;
}

// Rows that see nothing, some, and all; several tiles; an empty unit and one of a single token.
Shape Small() {
  std::vector<int32_t> rows = {0, 40, 120};
  for (const int32_t position : Rows(230, 20)) rows.push_back(position);
  return {.group = 3, .kv_heads = 6, .dim = 24, .lengths = {97, 0, 1, 48, 200, 143}, .rows = rows, .seen = 250};
}

// More than two chunks, the last of them shorter than any pool; bf16, so that AMX takes it where there is one.
Shape Large() {
  const int32_t chunk = ChunkKeys(2 * 5);
  return {.group = 2,
          .kv_heads = 1,
          .dim = 64,
          .lengths = {2 * chunk + 1},
          .rows = Rows(2 * chunk + 195, 5),
          .seen = 2 * chunk + 200,
          .dtype = DType::kBF16,
          .loudness = 2};
}

Policy Make(Signal::Kind signal, Accumulate::Kind accumulate, int32_t row_pool, Group::Kind group) {
  Policy policy;
  policy.signal.kind = signal;
  policy.accumulate.kind = accumulate;
  policy.accumulate.row_pool = row_pool;
  if (accumulate == Accumulate::Kind::kMeanVar) policy.accumulate.gamma_ppm = 200 * kPpm;
  policy.group.kind = group;
  return policy;
}

std::string Name(const Policy& policy) {
  return "signal " + std::to_string(static_cast<int>(policy.signal.kind)) + ", over " +
         std::to_string(static_cast<int>(policy.signal.over)) + ", accumulate " +
         std::to_string(static_cast<int>(policy.accumulate.kind)) + ", row_pool " +
         std::to_string(policy.accumulate.row_pool) + ", group " + std::to_string(static_cast<int>(policy.group.kind)) +
         ", place " + std::to_string(static_cast<int>(policy.group.place));
}

std::vector<Policy> Variants() {
  std::vector<Policy> policies;
  for (const Signal::Kind signal :
       {Signal::Kind::kSoftmax, Signal::Kind::kStepGainSoftmax, Signal::Kind::kPower, Signal::Kind::kSoftmax1}) {
    for (const Accumulate::Kind accumulate :
         {Accumulate::Kind::kSum, Accumulate::Kind::kMean, Accumulate::Kind::kMax, Accumulate::Kind::kMeanVar}) {
      for (const int32_t row_pool : {1, 5, 33}) {
        policies.push_back(Make(signal, accumulate, row_pool, static_cast<Group::Kind>(policies.size() % 3)));
        policies.back().signal.over = policies.size() % 2 == 0 ? Signal::Over::kCandidates : Signal::Over::kVisible;
        if (policies.size() % 4 == 3) policies.back().group.place = Group::Place::kAfterRefine;
      }
    }
  }
  return policies;
}

TEST(Attention, AllVariantsOnOddShapes) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    Shape shape = Small();
    shape.dtype = dtype;
    Layer layer(shape, 1);
    for (const Policy& policy : Variants()) Check(layer, layer.View(), policy, 20, Name(policy));
  }
}

TEST(Attention, AllVariantsAcrossChunks) {
  Layer layer(Large(), 2);
  for (const Policy& policy : Variants()) Check(layer, layer.View(), policy, 300, Name(policy));
}

// Every place that a unit's end can have in a tile, and units shorter than the pool.
TEST(Attention, PoolsAtEveryEdge) {
  for (const int32_t row_pool : {3, 7, 33}) {
    Shape shape{.group = 2, .kv_heads = 100, .dim = 4, .lengths = {}, .rows = Rows(100, 20), .seen = 120};
    for (int32_t length = 1; length <= 100; ++length) shape.lengths.push_back(length);
    Layer layer(shape, 3);
    for (const Accumulate::Kind kind : {Accumulate::Kind::kSum, Accumulate::Kind::kMax, Accumulate::Kind::kMeanVar}) {
      const Policy policy = Make(Signal::Kind::kSoftmax, kind, row_pool, Group::Kind::kMean);
      Check(layer, layer.View(), policy, 10, Name(policy));
    }
  }
}

TEST(Attention, WindowOfAllRowsAndOfTheLast) {
  Layer layer(Small(), 4);
  Policy policy = Make(Signal::Kind::kSoftmax, Accumulate::Kind::kMean, 1, Group::Kind::kSum);
  for (const int32_t window : {0, 1, 7}) {
    policy.window = window;
    Check(layer, layer.View(), policy, 20, "window " + std::to_string(window));
  }
}

TEST(Attention, TheGreatestGain) {
  Layer layer(Small(), 7);
  Policy policy = Make(Signal::Kind::kStepGainSoftmax, Accumulate::Kind::kSum, 1, Group::Kind::kMean);
  policy.name = "steep";
  policy.signal.g_min_ppm = 1000 * kPpm;
  ASSERT_TRUE(Validate(policy).ok()) << Validate(policy);
  Check(layer, layer.View(), policy, 20, "g_min 1000");
}

TEST(Attention, RunningWeighsTheRowsThatAreNew) {
  Layer layer(Small(), 5);
  SequenceView view = layer.View();
  Policy policy = Make(Signal::Kind::kSoftmax, Accumulate::Kind::kRunning, 1, Group::Kind::kMean);
  policy.window = 0;
  for (const int64_t decay_ppm : {int64_t{0}, int64_t{900'000}, kPpm}) {
    for (const int64_t observed : {0, 41, 249}) {
      policy.accumulate.decay_ppm = decay_ppm;
      view.observed = observed;
      Check(layer, view, policy, 20, "decay " + std::to_string(decay_ppm) + ", observed " + std::to_string(observed));
    }
  }
  view.observed = 250;
  const Result none = ScoreWith(view, policy, 20, {}, 1, false, false);
  ASSERT_TRUE(none.status.ok());
  EXPECT_EQ(none.scores, std::vector<float>(none.scores.size(), 0.0f));
}

TEST(Attention, ExtremeExponentsAndGammas) {
  Shape shape = Small();
  shape.loudness = 6;
  Layer layer(shape, 6);
  for (const int64_t exponent_ppm : {int64_t{1}, int64_t{500'000}, 4 * kPpm}) {
    for (const Accumulate::Kind kind : {Accumulate::Kind::kSum, Accumulate::Kind::kMax, Accumulate::Kind::kMeanVar}) {
      Policy policy = Make(Signal::Kind::kPower, kind, 3, Group::Kind::kMean);
      policy.signal.exponent_ppm = exponent_ppm;
      Check(layer, layer.View(), policy, 20, "exponent " + std::to_string(exponent_ppm));
    }
  }
  for (const int64_t gamma_ppm : {int64_t{0}, kPpm * kPpm}) {
    Policy policy = Make(Signal::Kind::kSoftmax, Accumulate::Kind::kMeanVar, 1, Group::Kind::kMax);
    policy.accumulate.gamma_ppm = gamma_ppm;
    Check(layer, layer.View(), policy, 20, "gamma " + std::to_string(gamma_ppm));
  }
}

// With logits this far apart most of a row underflows, and softmax1 leaves next to nothing of some rows.
TEST(Attention, PeakedRows) {
  Shape shape = Small();
  shape.loudness = 60;
  Layer layer(shape, 7);
  for (const Policy& policy : Variants()) Check(layer, layer.View(), policy, 20, Name(policy));
}

// With equal rows there is no variance, however large gamma is; a difference of squares would show some.
TEST(Attention, NoVarianceWhereRowsAreEqual) {
  Shape shape{.group = 1, .kv_heads = 1, .dim = 16, .lengths = {100}, .rows = Rows(200, 40), .seen = 240};
  Layer layer(shape, 8);
  for (int32_t row = 1; row < 40; ++row) {
    std::memcpy(layer.Query(0, row), layer.Query(0, 0), 16 * sizeof(float));
  }
  SequenceView view = layer.View();
  const std::vector<int32_t> same(40, 239);
  view.window.positions = same;
  Policy policy = Make(Signal::Kind::kSoftmax, Accumulate::Kind::kMeanVar, 1, Group::Kind::kMean);
  policy.window = 0;
  policy.accumulate.gamma_ppm = kPpm * kPpm;
  const Result result = ScoreWith(view, policy, 20, {}, 1, true, false);
  ASSERT_TRUE(result.status.ok());
  for (size_t j = 0; j < result.scores.size(); ++j) EXPECT_FLOAT_EQ(result.scores[j], result.attention[j]);
}

TEST(Attention, NamesNumbersThatAreNotFinite) {
  Layer layer(Large(), 9);
  const Policy policy = Make(Signal::Kind::kSoftmax, Accumulate::Kind::kMax, 5, Group::Kind::kMean);
  const uint16_t infinity = 0x7f80;
  const int32_t bad = ChunkKeys(10) + 50;
  std::memcpy(layer.Key(0, bad) + 6, &infinity, sizeof(infinity));
  Result result = ScoreWith(layer.View(), policy, 300, {}, 3, true, false);
  EXPECT_EQ(result.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(result.status.message().find("index " + std::to_string(bad)), std::string::npos) << result.status;
  std::memcpy(layer.Query(1, 2), &infinity, sizeof(infinity));
  result = ScoreWith(layer.View(), policy, 300, {}, 3, true, false);
  EXPECT_NE(result.status.message().find("query head 1, row 2"), std::string::npos) << result.status;
}

TEST(Attention, StopsWhenTold) {
  Layer layer(Large(), 10);
  SequenceView view = layer.View();
  const std::atomic<bool> stop = true;
  view.stop = &stop;
  for (const Policy& policy : Variants()) {
    EXPECT_EQ(ScoreWith(view, policy, 300, std::vector<CandidateSet>(1), 2, false, false).status.code(),
              absl::StatusCode::kCancelled);
  }
}

TEST(Attention, PassesOnWhatItsCallerSays) {
  Layer layer(Small(), 11);
  Policy policy = Make(Signal::Kind::kSoftmax, Accumulate::Kind::kSum, 1, Group::Kind::kMax);
  policy.group.place = Group::Place::kAfterRefine;
  ThreadPool pool(1);
  AttentionOutput output;
  output.on_head = [](int32_t head, std::span<float>) {
    return head == 1 ? absl::InvalidArgumentError("enough") : absl::OkStatus();
  };
  EXPECT_EQ(ScoreAttention(layer.View(), policy, 20, 0, {}, pool, output).message(), "enough");
}

}  // namespace
}  // namespace kvsteward::engine::cpu
