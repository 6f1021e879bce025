// Shapes that random cases are too small or too random for: thousands of tokens, lengths around blocks and tiles,
// masses around the flush to 0.
#include <algorithm>
#include <memory>
#include <optional>
#include <string>

#include "tests/kernels/engine_contract.h"
#include "tests/kernels/plan_check.h"

namespace kvsteward::engine {
namespace {

// Plans, checks and returns the plan.
Plan EvictRight(Engine& engine, PagedSequence& sequence, const Policy& policy, const Budget& budget) {
  absl::StatusOr<Plan> plan = PlanEviction(engine, sequence, policy, budget);
  EXPECT_TRUE(plan.ok()) << plan.status();
  if (!plan.ok()) return {};
  ExpectPlanIsRight(sequence, policy, *plan);
  return *std::move(plan);
}

}  // namespace

TEST_P(EngineContract, EveryPresetOnEveryKindOfNumbers) {
  uint32_t seed = 0;
  for (const std::string& name : PresetNames()) {
    for (const Numbers numbers : kAllNumbers) {
      for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
        Random random(++seed);
        const Policy policy = PresetNamed(name);
        Shape shape = UniformShape(2, 2, 150);
        shape.dtype = dtype;
        shape.query_dtype = shape.dtype;
        shape.numbers = numbers;
        shape.rows = 32;
        shape.moments = policy.reads_moments();
        PagedSequence sequence = Page(MakeSequence(random, shape), Placement::kScattered, seed);
        SCOPED_TRACE(name + " numbers " + std::to_string(static_cast<int>(numbers)) + " dtype " +
                     std::to_string(static_cast<int>(dtype)));
        ASSERT_NO_FATAL_FAILURE(EvictRight(*engine_, sequence, policy, Tokens(48)));
      }
    }
  }
}

// Several chunks a unit, in bf16 (where there is AMX, with it) and in f32 with gaps.
TEST_P(EngineContract, LongSequences) {
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    Random random(7);
    Shape shape = UniformShape(1, 2, 5000);
    shape.group = 4;
    shape.head_dim = dtype == DType::kBF16 ? 128 : 48;
    shape.rows = 32;
    shape.dtype = dtype;
    shape.query_dtype = dtype;
    shape.gaps = dtype == DType::kF32;
    PagedSequence sequence = Page(MakeSequence(random, shape));
    const Policy policy = PresetNamed(dtype == DType::kBF16 ? "ahakv-ada" : "ada-snapkv");
    ASSERT_NO_FATAL_FAILURE(EvictRight(*engine_, sequence, policy, {Budget::Kind::kPpmOfSeen, 100'000}));
  }
}

TEST_P(EngineContract, EveryPresetOnThousandsOfTokens) {
  uint32_t seed = 0;
  for (const std::string& name : PresetNames()) {
    for (int i = 0; i < 3; ++i) {
      Random random(++seed);
      const Policy policy = PresetNamed(name);
      Shape shape = UniformShape(1, 2, Between(random, 1000, 3000));
      shape.rows = 32;
      shape.gaps = i == 1;
      shape.equal = policy.group.span == Group::Span::kLayer;
      shape.moments = policy.reads_moments();
      shape.dtype = i == 2 ? DType::kBF16 : DType::kF32;
      shape.query_dtype = shape.dtype;
      SCOPED_TRACE(name + " seed " + std::to_string(seed));
      PagedSequence sequence = Page(MakeSequence(random, shape));
      ASSERT_NO_FATAL_FAILURE(EvictRight(*engine_, sequence, policy, Tokens(Between(random, 64, 900))));
    }
  }
}

// Compositions on units of several chunks, and of more tokens than `split` looks at.
TEST_P(EngineContract, CompositionsOnHundredsOfTokens) {
  for (uint32_t seed = 0; seed < 150; ++seed) {
    Random random(seed);
    const Policy policy = RandomPolicy(random, 2, 2);
    Shape shape = UniformShape(2, 2, Between(random, 300, 1100));
    shape.group = 1;
    shape.head_dim = 9;
    shape.rows = 20;
    shape.gaps = seed % 2 == 1;
    shape.equal = policy.group.span == Group::Span::kLayer;
    shape.moments = policy.reads_moments();
    SCOPED_TRACE("seed " + std::to_string(seed) + "\n" + PolicyToYaml(policy));
    PagedSequence sequence = Page(MakeSequence(random, shape));
    const Budget budget = Tokens(Between(random, 280, 500));
    const absl::StatusOr<Plan> plan = PlanEviction(*engine_, sequence, policy, budget);
    if (plan.ok()) {
      ASSERT_NO_FATAL_FAILURE(ExpectPlanIsRight(sequence, policy, *plan));
    } else {
      ASSERT_NO_FATAL_FAILURE(ExpectRefusalIsRight(sequence, policy, budget.amount, plan.status()));
    }
  }
}

// The flush to 0 is per query head: eight heads that are each below 2^-100 add up to nothing.
TEST_P(EngineContract, TinyMassesOfEightHeads) {
  for (const auto accumulate : {Accumulate::Kind::kSum, Accumulate::Kind::kMean, Accumulate::Kind::kMax}) {
    for (const auto group : {Group::Kind::kSum, Group::Kind::kMean, Group::Kind::kMax}) {
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        Policy policy;
        policy.name = "tiny";
        policy.accumulate.kind = accumulate;
        policy.group.kind = group;
        policy.protect.sinks = 1;  // the token that takes all, so that it does not widen epsilon
        Shape shape = UniformShape(1, 1, 300);
        shape.group = 8;
        shape.dtype = dtype;
        shape.query_dtype = dtype;
        shape.numbers = Numbers::kTinyMasses;
        shape.head_dim = 32;
        Random random(11);
        PagedSequence sequence = Page(MakeSequence(random, shape));
        SCOPED_TRACE(PolicyToYaml(policy));
        const Plan plan = EvictRight(*engine_, sequence, policy, Tokens(100));
        ASSERT_EQ(plan.scores.size(), 1u);
        const std::vector<float>& scores = plan.scores[0].scores;
        EXPECT_GT(std::count(scores.begin(), scores.end(), 0.0f), 0);
        EXPECT_GT(std::count_if(scores.begin(), scores.end(), [](float s) { return s > 0 && s < 0x1p-98f; }), 0);
      }
    }
  }
}

TEST_P(EngineContract, LengthsAroundBlocksAndTiles) {
  Policy policy = PresetNamed("ahakv-ada");
  policy.protect = {};
  for (const int32_t n :
       {1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513, 1023, 1025}) {
    for (const int32_t dim : {1, 17, 64}) {
      Random random(static_cast<uint32_t>(n * 1000 + dim));
      Shape shape = UniformShape(1, 1, n);
      shape.head_dim = dim;
      shape.rows = 3;
      shape.dtype = DType::kBF16;
      shape.query_dtype = shape.dtype;
      shape.gaps = dim == 17;
      PagedSequence sequence = Page(MakeSequence(random, shape));
      SCOPED_TRACE("n " + std::to_string(n) + " dim " + std::to_string(dim));
      ASSERT_NO_FATAL_FAILURE(EvictRight(*engine_, sequence, policy, Tokens(std::max(1, n / 2))));
    }
  }
}

// Many rows and long sequences, where random cases are small: plans are the same for any threads and any placement.
TEST_P(EngineContract, ThreadsAndPlacementDoNotChangeThePlan) {
  for (uint32_t seed = 0; seed < 40; ++seed) {
    Random random(seed);
    Shape shape = RandomShape(random, seed % 5 == 0 ? 3000 : 300);
    shape.layers = 1;
    shape.lengths.resize(static_cast<size_t>(shape.kv_heads));
    const Policy policy = RandomPolicy(random, 1, shape.kv_heads);
    shape.equal = policy.group.span == Group::Span::kLayer;
    shape.moments = policy.reads_moments();
    const PlainSequence plain = MakeSequence(random, shape);
    const int64_t most = Residents(plain) / shape.kv_heads;
    const Budget budget = Tokens(Between(random, 1 + static_cast<int32_t>(most / 2), 1 + static_cast<int32_t>(most)));
    SCOPED_TRACE("seed " + std::to_string(seed) + "\n" + PolicyToYaml(policy));
    std::optional<absl::StatusOr<Plan>> first;
    for (const int threads : {1, 2, 3}) {
      const std::unique_ptr<Engine> engine = GetParam().make(threads);
      for (const Placement placement : {Placement::kContiguous, Placement::kScattered}) {
        PagedSequence sequence = Page(plain, placement, seed * 10 + static_cast<uint32_t>(threads));
        absl::StatusOr<Plan> plan = PlanEviction(*engine, sequence, policy, budget);
        if (!first) first = plan;
        ASSERT_EQ(plan.status(), first->status());
        if (!plan.ok()) {
          ASSERT_NO_FATAL_FAILURE(ExpectRefusalIsRight(sequence, policy, budget.amount, plan.status()));
          continue;
        }
        ASSERT_NO_FATAL_FAILURE(ExpectSamePlan(*plan, **first));
      }
    }
  }
}

}  // namespace kvsteward::engine
