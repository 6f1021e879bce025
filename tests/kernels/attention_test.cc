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

#include "tests/kernels/naive_attention.h"

namespace kvsteward::engine::cpu {
namespace {

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
