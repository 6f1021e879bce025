// What an engine reads of what is cached, what it copies, and what it leaves alone.
#include <limits>
#include <string>

#include "tests/kernels/engine_contract.h"
#include "tests/kernels/plan_check.h"

namespace kvsteward::engine {

TEST_P(EngineContract, CompactionGathers) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    Random random(seed);
    Shape shape = RandomShape(random, 200);
    shape.window = Rows::kLast;
    PlainSequence plain = MakeSequence(random, shape);
    MakeRunning(random, shape, &plain);
    PagedSequence sequence =
        Page(std::move(plain), seed % 3 == 0 ? Placement::kContiguous : Placement::kScattered, seed);
    Plan plan;
    plan.mask_offsets.push_back(0);
    for (const int32_t length : shape.lengths) {
      const uint32_t often = random() % 4;  // nothing, some, most, all
      plan.mask_offsets.push_back(plan.mask_offsets.back() + (length + 63) / 64);
      plan.mask.resize(static_cast<size_t>(plan.mask_offsets.back()));
      plan.kept.push_back(0);
      for (int32_t j = 0; j < length; ++j) {
        if (random() % 3 >= often) continue;
        plan.mask[plan.mask_offsets[plan.mask_offsets.size() - 2] + j / 64] |= uint64_t{1} << (j % 64);
        ++plan.kept.back();
      }
    }
    SCOPED_TRACE("seed " + std::to_string(seed));
    ASSERT_NO_FATAL_FAILURE(sequence.Compact(*engine_, plan));
    ASSERT_NO_FATAL_FAILURE(sequence.ExpectMemoryEqualsPlain());
  }
}

TEST_P(EngineContract, CompactionCarriesCachedNormsOnly) {
  Random random(3);
  PagedSequence sequence = Page(MakeSequence(random, UniformShape(1, 1, 60)));
  const Policy policy = PresetNamed("ahakv-ada");
  const absl::StatusOr<Plan> first = PlanEviction(*engine_, sequence, policy, Tokens(50));
  ASSERT_TRUE(first.ok()) << first.status();
  sequence.MarkNormed(policy.norm());
  ASSERT_NO_FATAL_FAILURE(sequence.Compact(*engine_, *first));
  ExpectNorms(sequence, policy);
  const absl::StatusOr<Plan> unchanged = PlanEviction(*engine_, sequence, policy, Tokens(40));
  ASSERT_TRUE(unchanged.ok()) << unchanged.status();
  // What is cached is not read again: a norm that has been changed shows in the scores.
  ASSERT_EQ(sequence.unit(0).normed, 50);
  float& norm = sequence.pool().norms[sequence.SlotOf(0, 4)];
  norm = 1e6f;
  const absl::StatusOr<Plan> second = PlanEviction(*engine_, sequence, policy, Tokens(40));
  ASSERT_TRUE(second.ok()) << second.status();
  ASSERT_GT(unchanged->scores[0].scores[5], 0.0f);
  EXPECT_GT(second->scores[0].scores[4], 2 * unchanged->scores[0].scores[4]);
  EXPECT_LT(second->scores[0].scores[5], unchanged->scores[0].scores[5] / 2);  // the prior is over the mean norm
  EXPECT_EQ(norm, 1e6f);
}

// Norms of the other kind are no use: they are made anew.
TEST_P(EngineContract, NormsOfAnotherKindAreNotTaken) {
  Random random(3);
  PagedSequence sequence = Page(MakeSequence(random, UniformShape(2, 2, 60)));
  Policy policy = PresetNamed("ahakv-ada");
  for (const Norm norm : {Norm::kL1, Norm::kL2, Norm::kL1, Norm::kL2Squared}) {
    policy.refine[0].norm = norm;
    const absl::StatusOr<Plan> plan = PlanEviction(*engine_, sequence, policy, Tokens(50));
    ASSERT_TRUE(plan.ok()) << plan.status();
    ASSERT_NO_FATAL_FAILURE(ExpectPlanIsRight(sequence, policy, *plan));
    sequence.MarkNormed(policy.norm());
  }
}

TEST_P(EngineContract, NoOpReadsNoTensor) {
  for (const std::string& name : PresetNames()) {
    const Policy policy = PresetNamed(name);
    for (const bool gaps : {false, true}) {
      Random random(5);
      Shape shape = UniformShape(2, 2, 100);
      shape.lengths = {100, 20, 130, 70};  // 80 on average
      shape.gaps = gaps;
      shape.moments = true;
      const int64_t k = policy.group.span == Group::Span::kLayer ? 115 : 80;
      shape.equal = policy.group.span == Group::Span::kLayer;  // of 100 and 130
      PagedSequence sequence = Page(MakeSequence(random, shape));
      sequence.PoisonEverything();
      const absl::StatusOr<Plan> plan = PlanEviction(*engine_, sequence, policy, Tokens(k), /*commit=*/true);
      ASSERT_TRUE(plan.ok()) << plan.status();
      EXPECT_TRUE(plan->no_op);
      ExpectPlanIsRight(sequence, policy, *plan);
      if (policy.signal.kind != Signal::Kind::kNone) {
        EXPECT_FALSE(PlanEviction(*engine_, sequence, policy, Tokens(k - 1)).ok()) << name;
      }
    }
  }
}

TEST_P(EngineContract, BadNumbersThatNobodyReadsDoNotMatter) {
  Random random(5);
  PagedSequence values = Page(MakeSequence(random, UniformShape(1, 1, 100)));
  values.SetValue(0, 50, 0, std::numeric_limits<double>::quiet_NaN());
  EXPECT_TRUE(PlanEviction(*engine_, values, PresetNamed("snapkv"), Tokens(60)).ok());

  PagedSequence streaming = Page(MakeSequence(random, UniformShape(2, 2, 100)));
  streaming.PoisonEverything();
  const Policy policy = PresetNamed("streaming-llm");
  const absl::StatusOr<Plan> plan = PlanEviction(*engine_, streaming, policy, Tokens(10));
  ASSERT_TRUE(plan.ok()) << plan.status();
  ExpectPlanIsRight(streaming, policy, *plan);
  for (size_t j = 0; j < 100; ++j) EXPECT_EQ(Keeps(*plan, 3, j), j < 4 || j >= 94) << j;
}

// A plan that is only made stores no running score; one that is carried out stores those of all residents.
TEST_P(EngineContract, RunningScoresAreStoredOnCommitOnly) {
  Random random(9);
  PagedSequence sequence = Page(MakeSequence(random, UniformShape(2, 2, 60)));
  const Policy policy = PresetNamed("h2o");
  const std::string before = sequence.Snapshot();
  const absl::StatusOr<Plan> planned = PlanEviction(*engine_, sequence, policy, Tokens(30));
  ASSERT_TRUE(planned.ok()) << planned.status();
  EXPECT_TRUE(sequence.Snapshot() == before);
  const absl::StatusOr<Plan> plan = PlanEviction(*engine_, sequence, policy, Tokens(30), /*commit=*/true);
  ASSERT_TRUE(plan.ok()) << plan.status();
  for (size_t u = 0; u < 4; ++u) {
    const LayerScores& layer = plan->scores[u / 2];
    for (int32_t j = 0; j < 60; ++j) {
      EXPECT_EQ(sequence.pool().running[sequence.SlotOf(u, j)], layer.running[u % 2 * 60 + j]);
    }
  }
}

}  // namespace kvsteward::engine
