// Signals that need no query rows, running scores and value norms on the host, against the reference.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cpu/expected.h"
#include "kernels/cpu/host_engine.h"
#include "kernels/cpu/key_difference.h"
#include "kernels/cpu/norms.h"
#include "kernels/cpu/value_summary.h"
#include "tests/kernels/mirror.h"
#include "tests/kernels/paged_sequence.h"
#include "tests/kernels/random_cases.h"
#include "tests/reference/arithmetic.h"
#include "tests/reference/refine.h"
#include "tests/reference/signal.h"

namespace kvsteward::engine::cpu {
namespace {

using ::testing::HasSubstr;

constexpr DType kDTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

// Head dimensions beside whole vectors and panels, lengths beside whole tiles and chunks.
Shape ShapeOf(uint32_t seed) {
  constexpr int32_t kDims[] = {1, 3, 8, 20, 64, 128};
  Shape shape;
  shape.kv_heads = 2;
  shape.group = 3;
  shape.head_dim = kDims[seed / 3 % 6];
  shape.dtype = kDTypes[seed % 3];
  shape.gaps = seed % 2 == 0;
  shape.lengths = {static_cast<int32_t>(1 + 47 * (seed % 5)), static_cast<int32_t>(seed == 17 ? 1600 : 49)};
  return shape;
}

// Row `head` of what a signal wrote for the layer.
std::vector<double> UnitOf(const SequenceView& view, const std::vector<float>& scores, size_t head) {
  size_t first = 0;
  for (size_t u = 0; u < head; ++u) first += static_cast<size_t>(view.units[u].length);
  return {scores.begin() + static_cast<std::ptrdiff_t>(first),
          scores.begin() + static_cast<std::ptrdiff_t>(first) + view.units[head].length};
}

size_t Tokens(const SequenceView& view) {
  size_t tokens = 0;
  for (const UnitView& unit : view.units) tokens += static_cast<size_t>(unit.length);
  return tokens;
}

TEST(KeyDifference, IsTheReferences) {
  for (uint32_t seed = 0; seed < 30; ++seed) {
    Random random(seed);
    Shape shape = ShapeOf(seed);
    shape.numbers = kAllNumbers[seed % std::size(kAllNumbers)];
    PagedSequence sequence(MakeSequence(random, shape), Placement::kScattered, seed);
    const SequenceView view = sequence.View();
    std::vector<float> scores(Tokens(view)), again(Tokens(view));
    ThreadPool two(2), one(1);
    ASSERT_TRUE(ScoreKeyDifference(view, 0, two, scores).ok());
    ASSERT_TRUE(ScoreKeyDifference(view, 0, one, again).ok());
    EXPECT_EQ(scores, again) << "the threads make a difference";
    for (size_t head = 0; head < 2; ++head) {
      double noise = 0;
      const reference::Row expected =
          reference::KeyDifference(sequence.plain().contents, sequence.plain().contents.units[head], &noise);
      const std::vector<double> unit = UnitOf(view, scores, head);
      for (size_t j = 0; j < unit.size(); ++j) {
        ASSERT_NEAR(unit[j], expected[j], 1e-7 * expected[j] + noise) << "seed " << seed << " index " << j;
      }
    }
  }
}

TEST(KeyDifference, ZeroKeysPointNowhere) {
  Random random(1);
  Shape shape = ShapeOf(2);
  shape.dtype = DType::kF32;
  PagedSequence sequence(MakeSequence(random, shape), Placement::kScattered, 1);
  for (int32_t x = 0; x < shape.head_dim; ++x) sequence.SetKey(1, 7, x, 0);
  const SequenceView view = sequence.View();
  std::vector<float> scores(Tokens(view));
  ThreadPool threads(2);
  ASSERT_TRUE(ScoreKeyDifference(view, 0, threads, scores).ok());
  EXPECT_EQ(UnitOf(view, scores, 1)[7], 1);
}

void ExpectExpectedIsTheReferences(PagedSequence& sequence, const Shape& shape, int32_t sinks) {
  const SequenceView view = sequence.View();
  Policy policy;
  policy.signal.kind = Signal::Kind::kExpected;
  policy.protect.sinks = sinks;
  ThreadPool two(2), one(1);
  std::vector<std::vector<float>> scores;  // [kv_heads][group][length]
  const auto take = [&](int32_t head, std::span<float> of_head) {
    EXPECT_EQ(static_cast<size_t>(head), scores.size());
    scores.emplace_back(of_head.begin(), of_head.end());
    return absl::OkStatus();
  };
  ASSERT_TRUE(ScoreExpected(view, policy, 0, two, take).ok());
  const std::vector<std::vector<float>> by_two = std::exchange(scores, {});
  ASSERT_TRUE(ScoreExpected(view, policy, 0, one, take).ok());
  EXPECT_EQ(scores, by_two) << "the threads make a difference";
  for (int32_t query_head = 0; query_head < shape.kv_heads * shape.group; ++query_head) {
    double greatest_logit = 0;
    const reference::Row expected =
        reference::ExpectedAttention(sequence.plain().contents, MirrorOf(policy), 0, query_head, &greatest_logit);
    const std::vector<float>& of_head = scores[static_cast<size_t>(query_head / shape.group)];
    const float* unit = &of_head[static_cast<size_t>(query_head % shape.group) * expected.size()];
    const double mean = reference::Reduced(expected, reference::Reduce::kMean);
    const double epsilon = 1e-5 + std::ldexp(greatest_logit, -21);
    for (size_t j = 0; j < expected.size(); ++j) {
      ASSERT_NEAR(unit[j], expected[j], epsilon * std::max(expected[j], mean) + 0x1p-100)
          << "query head " << query_head << " index " << j;
    }
  }
}

TEST(Expected, IsTheReferences) {
  for (uint32_t seed = 0; seed < 36; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    Shape shape = ShapeOf(seed);
    shape.moments = true;
    PagedSequence sequence(MakeSequence(random, shape), Placement::kScattered, seed);
    ExpectExpectedIsTheReferences(sequence, shape, static_cast<int32_t>(seed % 4 * 4));
  }
}

// Sums longer than one block of dimensions, and numbers that AMX would take for 0.
TEST(Expected, LongHeadsAndCovariancesOfAnySize) {
  for (const auto& [dim, size] : {std::pair{1030, 1.0}, {128, 1e-38}, {128, 1e12}}) {
    SCOPED_TRACE(size);
    Random random(1);
    const Shape shape{.kv_heads = 1, .group = 1, .head_dim = dim, .lengths = {20}, .dtype = DType::kBF16};
    PagedSequence sequence(MakeSequence(random, shape), Placement::kScattered, 1);
    for (int32_t x = 0; x < dim && size > 1; ++x) sequence.SetKey(0, 3, x, 0x1p-126);  // bf16's least normal number
    sequence.EditInputs([&](reference::Inputs& inputs) {
      std::normal_distribution<float> normal;
      for (int32_t x = 0; x < dim; ++x) inputs.query_mean.push_back(normal(random));
      for (int32_t i = 0; i < dim * dim; ++i) {
        inputs.query_covariance.push_back(static_cast<float>(size) * normal(random));
      }
    });
    ExpectExpectedIsTheReferences(sequence, shape, 0);
  }
}

TEST(Expected, NamesWhatIsNotFinite) {
  Random random(1);
  Shape shape = ShapeOf(4);
  shape.moments = true;
  PagedSequence sequence(MakeSequence(random, shape), Placement::kScattered, 1);
  Policy policy;
  policy.signal.kind = Signal::Kind::kExpected;
  ThreadPool threads(2);
  const auto error = [&] {
    const auto ignore = [](int32_t, std::span<float>) { return absl::OkStatus(); };
    return std::string(ScoreExpected(sequence.View(), policy, 0, threads, ignore).message());
  };
  const auto dim = static_cast<size_t>(shape.head_dim);
  sequence.EditInputs([&](reference::Inputs& inputs) { inputs.query_mean[4 * dim + 2] = NAN; });
  EXPECT_THAT(error(), HasSubstr("query_mean: layer 0, query head 4, index 2 "));
  sequence.EditInputs([&](reference::Inputs& inputs) {
    inputs.query_mean[4 * dim + 2] = 0;
    inputs.query_covariance[4 * dim * dim + 2 * dim + 1] = INFINITY;
  });
  EXPECT_THAT(error(), HasSubstr("query_covariance: layer 0, query head 4, index " + std::to_string(2 * dim + 1)));
  sequence.EditInputs([&](reference::Inputs& inputs) { inputs.query_covariance[4 * dim * dim + 2 * dim + 1] = 0; });
  sequence.SetKey(1, 33, 0, NAN);
  EXPECT_THAT(error(), HasSubstr("keys: layer 0, kv head 1, index 33 "));
}

TEST(Expected, RefusesALogitThatOverflows) {
  Random random(1);
  Shape shape = ShapeOf(4);
  shape.moments = true;
  shape.dtype = DType::kF32;
  PagedSequence sequence(MakeSequence(random, shape), Placement::kScattered, 1);
  sequence.SetKey(0, 3, 0, 1e30);
  Policy policy;
  policy.signal.kind = Signal::Kind::kExpected;
  ThreadPool threads(1);
  const auto ignore = [](int32_t, std::span<float>) { return absl::OkStatus(); };
  const absl::Status status = ScoreExpected(sequence.View(), policy, 0, threads, ignore);
  EXPECT_THAT(std::string(status.message()), HasSubstr("query head 0 at index 3 overflows float32"));
}

TEST(Norms, AreTheReferencesAndCachedByKind) {
  for (uint32_t seed = 0; seed < 18; ++seed) {
    Random random(seed);
    PagedSequence sequence(MakeSequence(random, ShapeOf(seed)), Placement::kScattered, seed);
    ThreadPool threads(2);
    for (const Norm kind : {Norm::kL2Squared, Norm::kL1, Norm::kL2Squared}) {  // each makes the one before void
      ASSERT_TRUE(FillNorms(sequence.View(), 0, kind, threads).ok());
      sequence.MarkNormed(kind);
      for (size_t head = 0; head < 2; ++head) {
        const UnitView unit = sequence.View().units[head];
        std::vector<float> norms(static_cast<size_t>(unit.length));
        LoadNorms(sequence.pool(), unit, kind, 0, norms);
        const reference::Sequence& contents = sequence.plain().contents;
        const reference::Row expected = reference::NormsOf(
            contents, contents.units[head], kind == Norm::kL1 ? reference::Norm::kL1 : reference::Norm::kL2Squared);
        for (size_t j = 0; j < norms.size(); ++j) ASSERT_NEAR(norms[j], expected[j], 1e-6 * expected[j]) << j;
      }
    }
  }
}

TEST(ValueSummary, IsTheReferences) {
  for (uint32_t seed = 0; seed < 12; ++seed) {
    Random random(seed);
    Shape shape = ShapeOf(seed);
    shape.kv_heads = 3;
    shape.lengths = {300, 600, 20};
    PagedSequence sequence(MakeSequence(random, shape), Placement::kScattered, seed);
    const SequenceView view = sequence.View();
    std::vector<float> attention(Tokens(view));
    for (float& a : attention) a = static_cast<float>(random() % 16) / 64;  // ties
    std::vector<reference::Row> rows;
    for (size_t head = 0; head < 3; ++head) rows.push_back(UnitOf(view, attention, head));
    const reference::Row expected = reference::Distances(sequence.plain().contents, 0, rows);
    ThreadPool threads(2);
    std::vector<double> distance;
    ASSERT_TRUE(SummaryDistances(view, 0, attention, threads, &distance).ok());
    ASSERT_EQ(distance.size(), 3u);
    for (size_t head = 0; head < 3; ++head) EXPECT_NEAR(distance[head], expected[head], 1e-9 * expected[head]);
  }
}

// S = decay^m S + what the m new rows add, through compactions of the pool's own kind.
TEST(Running, CarriesOnFromWhatWasStored) {
  for (uint32_t seed = 0; seed < 12; ++seed) {
    Random random(seed);
    Shape shape = ShapeOf(seed);
    shape.rows = 6;
    shape.lengths = {70, 90};
    PlainSequence plain = MakeSequence(random, shape);
    MakeRunning(random, shape, &plain);
    PagedSequence sequence(plain, Placement::kScattered, seed);
    Policy policy;
    policy.window = 0;
    policy.accumulate = {.kind = Accumulate::Kind::kRunning, .decay_ppm = seed % 2 == 0 ? kPpm : 900'000};
    if (seed % 3 == 0) policy.group.kind = Group::Kind::kSum;
    const std::unique_ptr<LayerEngine> engine = NewHostLayerEngine(2);
    std::vector<float> running;
    ASSERT_TRUE(engine->AccumulateLayer(sequence.View(), policy, 10, 0, &running).ok());
    const std::vector<reference::UnitScores> expected =
        reference::ScoreLayer(sequence.plain().contents, MirrorOf(policy), 10, 0);
    for (size_t head = 0; head < 2; ++head) {
      const std::vector<double> unit = UnitOf(sequence.View(), running, head);
      for (size_t j = 0; j < unit.size(); ++j) {
        ASSERT_NEAR(unit[j], expected[head].running[j], 1e-4 * expected[head].running[j] + 0x1p-90) << "seed " << seed;
      }
    }
    engine->StoreRunning(sequence.View(), 0, running);
    for (size_t head = 0; head < 2; ++head) {
      const std::vector<double> unit = UnitOf(sequence.View(), running, head);
      for (size_t j = 0; j < unit.size(); ++j) {
        EXPECT_EQ(sequence.pool().running[sequence.SlotOf(head, static_cast<int32_t>(j))], unit[j]);
      }
    }
  }
}

}  // namespace
}  // namespace kvsteward::engine::cpu
