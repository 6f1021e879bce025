// The order in which a planner calls its engine, what it stores, and that an error leaves everything as it was.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "tests/kernels/planner_fixture.h"

namespace kvsteward::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(EvictionPlanner, ScoresAndSelectsALayerPerStep) {
  FakeEngine engine;
  Sequence sequence({30, 30, 30, 30}, 2);
  absl::StatusOr<EvictionPlanner> planner = EvictionPlanner::Start(engine, sequence.View(), SmallPolicy(), kTen, true);
  ASSERT_TRUE(planner.ok()) << planner.status();
  EXPECT_THAT(engine.log, ElementsAre());
  ASSERT_TRUE(planner->Step().ok());
  EXPECT_THAT(engine.log, ElementsAre("score 0", "select 0 of 20"));
  EXPECT_FALSE(planner->finished());
  ASSERT_TRUE(planner->Step().ok());
  EXPECT_THAT(engine.log, ElementsAre("score 0", "select 0 of 20", "score 1", "select 1 of 20"));
  ASSERT_TRUE(planner->finished());
  ASSERT_TRUE(planner->CommitRunning().ok());
  EXPECT_EQ(engine.log.size(), 4u);
  const Plan plan = planner->TakePlan();
  EXPECT_FALSE(plan.no_op);
  EXPECT_EQ(plan.budget_tokens, 10);
  EXPECT_EQ(plan.layer_budgets, (std::vector<int64_t>{20, 20}));
  ASSERT_EQ(plan.scores.size(), 2u);
  EXPECT_EQ(plan.scores[1].scores.size(), 60u);
  EXPECT_EQ(std::popcount(plan.UnitMask(3)[0]), plan.kept[3]);
}

TEST(EvictionPlanner, ScoresAllLayersFirstIfBudgetsNeedThem) {
  std::vector<Policy> policies = {PolicyWithLayers(LayerBudget::Kind::kEntropy),
                                  PolicyWithLayers(LayerBudget::Kind::kEqualMass),
                                  PolicyWithLayers(LayerBudget::Kind::kGlobal), SmallPolicy()};
  policies.back().protect.mass_ppm = 100'000;
  for (const Policy& policy : policies) {
    for (const bool keep_scores : {false, true}) {
      FakeEngine engine;
      Sequence sequence({30, 30, 30, 30, 30, 30}, 3);
      absl::StatusOr<EvictionPlanner> planner =
          EvictionPlanner::Start(engine, sequence.View(), policy, kTen, keep_scores);
      ASSERT_TRUE(planner.ok()) << planner.status();
      for (size_t step = 1; step <= 7; ++step) {  // the fourth divides the budget
        EXPECT_FALSE(planner->finished());
        ASSERT_TRUE(planner->Step().ok());
        EXPECT_EQ(engine.log.size(), step < 4 ? step : step - 1);
      }
      EXPECT_THAT(engine.log, ElementsAre("score 0", "score 1", "score 2", HasSubstr("select 0"), HasSubstr("select 1"),
                                          HasSubstr("select 2")));
      EXPECT_TRUE(planner->finished());
      const Plan plan = planner->TakePlan();
      EXPECT_EQ(std::accumulate(plan.layer_budgets.begin(), plan.layer_budgets.end(), int64_t{0}), 60);
      EXPECT_EQ(plan.scores.size(), keep_scores ? 3u : 0u);
      if (keep_scores) {
        EXPECT_EQ(plan.scores[2].scores.size(), 60u);
      }
    }
  }
}

TEST(EvictionPlanner, KeepsNoScoresUnlessAsked) {
  FakeEngine engine;
  Sequence sequence({30, 30});
  absl::StatusOr<EvictionPlanner> planner = EvictionPlanner::Start(engine, sequence.View(), SmallPolicy(), kTen, false);
  EXPECT_TRUE(Finish(*planner).scores.empty());
}

TEST(EvictionPlanner, NoOpScoresNothing) {
  FakeEngine engine;
  for (const Policy& policy : {SmallPolicy(), RunningPolicy(), PolicyWithLayers(LayerBudget::Kind::kEqualMass)}) {
    Sequence sequence({13, 7, 3, 17}, 2);
    absl::StatusOr<EvictionPlanner> planner = EvictionPlanner::Start(engine, sequence.View(), policy, kTen, true);
    ASSERT_TRUE(planner.ok()) << planner.status();
    ASSERT_TRUE(planner->finished());
    ASSERT_TRUE(planner->CommitRunning().ok());
    const Plan plan = planner->TakePlan();
    EXPECT_TRUE(plan.no_op);
    EXPECT_TRUE(plan.scores.empty());
    EXPECT_EQ(plan.kept, (std::vector<int32_t>{13, 7, 3, 17}));
    EXPECT_EQ(plan.layer_budgets, (std::vector<int64_t>{20, 20}));
    EXPECT_EQ(plan.UnitMask(3)[0], (uint64_t{1} << 17) - 1);
    EXPECT_THAT(engine.log, ElementsAre());
  }
}

TEST(EvictionPlanner, StoresRunningScoresWhenTold) {
  for (const bool keep_scores : {false, true}) {
    FakeEngine engine;
    engine.score = [](int32_t layer, int32_t head, int32_t) { return static_cast<float>(10 * layer + head); };
    Sequence sequence({30, 2, 31, 2}, 2);
    absl::StatusOr<EvictionPlanner> planner =
        EvictionPlanner::Start(engine, sequence.View(), RunningPolicy(), kTen, keep_scores);
    ASSERT_TRUE(planner.ok()) << planner.status();
    const Plan plan = Finish(*planner);
    EXPECT_TRUE(engine.stored.empty());
    ASSERT_TRUE(planner->CommitRunning().ok());
    EXPECT_THAT(engine.log,
                ElementsAre("score 0", "select 0 of 20", "score 1", "select 1 of 20", "store 0", "store 1"));
    std::vector<float> first(32, 0.0f);
    first[30] = first[31] = 1.0f;
    std::vector<float> second(33, 10.0f);
    second[31] = second[32] = 11.0f;
    EXPECT_THAT(engine.stored, ElementsAre(first, second));
    if (keep_scores) {
      EXPECT_EQ(plan.scores[1].running, second);
    }
  }
}

TEST(EvictionPlanner, AnErrorIsTheStepsAndChangesNothing) {
  for (const LayerBudget::Kind kind : {LayerBudget::Kind::kUniform, LayerBudget::Kind::kEntropy}) {
    for (const absl::Status& error : {absl::InvalidArgumentError("keys are bad"), absl::CancelledError("stopped")}) {
      FakeEngine engine;
      engine.bad_layer = 3;
      engine.error = error;
      Sequence sequence(std::vector<int32_t>(5, 30), 5);
      Policy policy = RunningPolicy();
      policy.layer.kind = kind;
      absl::StatusOr<EvictionPlanner> planner = EvictionPlanner::Start(engine, sequence.View(), policy, kTen, false);
      ASSERT_TRUE(planner.ok()) << planner.status();
      for (int step = 0; step < 3; ++step) ASSERT_TRUE(planner->Step().ok());
      EXPECT_EQ(planner->Step(), error);
      EXPECT_FALSE(planner->finished());
      EXPECT_EQ(engine.log.back(), "score 3");
      EXPECT_TRUE(engine.stored.empty());
      // What failed is tried again by whoever steps on.
      engine.bad_layer = -1;
      const Plan plan = Finish(*planner);
      EXPECT_EQ(std::accumulate(plan.kept.begin(), plan.kept.end(), 0), 50);
    }
  }
}

}  // namespace
}  // namespace kvsteward::engine
