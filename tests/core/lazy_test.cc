// Lazy evictions: due once a unit has a block more than its last plan left it.
#include <gtest/gtest.h>

#include "tests/core/evicting.h"
#include "tests/core/matchers.h"

namespace kvsteward::core {
namespace {

EvictAsked Lazy(const Evicting& e, int32_t written, int32_t budget) {
  EvictAsked asked = EvictOf(e.worker, 1, written);
  asked.items[0].lazy = true;
  asked.items[0].spec = BudgetOf(budget);
  return asked;
}

TEST(Lazy, EvictionIsDueWithABlockAboveTheBudget) {
  Evicting e(64, 0);
  EXPECT_EQ(e.Ask(Lazy(e, 45, 30)), 0u);
  const EvictResult spared = e.Result(e.world.last_call());
  EXPECT_TRUE(spared.outcome.ok());
  EXPECT_TRUE(spared.no_op);
  EXPECT_EQ(spared.budget_tokens, 30);
  EXPECT_EQ(spared.policy->number, 1);
  EXPECT_EQ(spared.lengths, (std::vector<int32_t>{45, 45}));
  EXPECT_EQ(spared.kept, spared.lengths);
  EXPECT_EQ(spared.version, 1u);
  EXPECT_EQ(e.world.Must<ReserveReply>(ReserveOf(e.worker, 1, 64, 44)).results[0].outcome.code,
            Code::kInvalidArgument);  // what was written counts
  EXPECT_NE(e.Ask(Lazy(e, 46, 30)), 0u);
  e.world.FinishAll();
}

TEST(Lazy, EvictionCountsFromWhatTheLastPlanLeftEachUnit) {
  Evicting e(200, 60);
  EXPECT_TRUE(e.Evict(Lazy(e, 60, 30), {20, 60}).outcome.ok());  // the second unit is not settled, and yet planned
  e.world.Must<ReserveReply>(ReserveOf(e.worker, 1, 200, 60));
  EXPECT_EQ(e.Ask(Lazy(e, 75, 30)), 0u);
  EXPECT_EQ(e.Result(e.world.last_call()).kept, (std::vector<int32_t>{35, 75}));
  EXPECT_NE(e.Ask(Lazy(e, 76, 30)), 0u);
  e.world.FinishAll();  // a no-op is no plan
  EXPECT_NE(e.Ask(Lazy(e, 76, 30)), 0u);
  e.world.FinishAll();
}

TEST(Lazy, EvictionCountsFromTheBudgetIfThatIsAnother) {
  Evicting e(200, 60);
  e.Evict(Lazy(e, 60, 30), {20, 40});
  EXPECT_EQ(e.Ask(Lazy(e, 60, 30)), 0u);
  EXPECT_EQ(e.Ask(Lazy(e, 60, 25)), 0u);  // 40 are less than a block above it
  EXPECT_NE(e.Ask(Lazy(e, 60, 24)), 0u);
  e.world.FinishAll();
  e.world.Must<ReserveReply>(ReserveOf(e.worker, 1, 200, 60));
  EXPECT_EQ(e.Ask(Lazy(e, 76, 50)), 0u);  // 36 and 56: a block above the plan, but the budget is larger now
  EXPECT_NE(e.Ask(Lazy(e, 76, 30)), 0u);
  e.world.FinishAll();
}

TEST(Lazy, EvictionIsNotDueWhileTheSequenceIsWithinAnotherBudget) {
  Evicting e(200, 60);
  e.Evict(Lazy(e, 60, 30), {50, 10});
  EXPECT_EQ(e.Ask(Lazy(e, 60, 31)), 0u);  // the first unit is a block above it, but 60 are fewer than twice 31
  EXPECT_NE(e.Ask(Lazy(e, 60, 29)), 0u);
  e.world.FinishAll();
}

TEST(Lazy, EvictionAfterACancelledOneIsDueForWhatIsLeftToDo) {
  Evicting e(64);
  const JobId job = e.Ask(Lazy(e, 64, 30));
  e.Plan(PlanOf(job, {40, 20}));
  e.world.Post(CallCancelled{e.world.last_call()});
  e.Compacted(job, 1);
  e.world.FinishAll();
  EXPECT_NE(e.Ask(Lazy(e, 64, 30)), 0u);  // 64 of the second unit's 20
  e.world.FinishAll();
}

TEST(Lazy, EvictionCancelledBeforeItsFirstUnitLeavesNoPlan) {
  Evicting e(64);
  const JobId job = e.Ask(Lazy(e, 64, 30));
  e.Plan(PlanOf(job, {10, 10}));
  e.world.Post(CallCancelled{e.world.last_call()});
  e.Compacted(job, 0);
  e.world.FinishAll();
  EXPECT_EQ(e.Ask(Lazy(e, 64, 50)), 0u);
}

TEST(Lazy, EvictionIsAskedOfTheDeviceIfTheBudgetIsNone) {
  Evicting e(64);
  EXPECT_NE(e.Ask(Lazy(e, 64, 0)), 0u);
  e.world.FinishAll();
}

TEST(Lazy, EvictionThatIsNotDueIsRepeatableAndNeedsNoRoom) {
  Config config = SmallConfig();
  config.queued_evicts_per_lease = 1;
  Evicting e(64, 64, config);
  e.Add(2, 16);
  e.Ask(EvictOf(e.worker, 2, 16));  // the device is taken
  EvictAsked asked = Lazy(e, 64, 60);
  asked.items[0].request_id = 7;
  asked.items[0].export_plan = true;
  EXPECT_EQ(e.Ask(asked), 0u);
  const EvictResult first = e.Result(e.world.last_call());
  EXPECT_TRUE(first.outcome.ok() && first.no_op);
  EXPECT_EQ(first.plan, PlanPlace{});
  e.world.FinishAll();
  asked.items[0].spec = BudgetOf(1);  // the same body as far as core can tell
  EXPECT_EQ(e.Ask(asked), 0u);
  EXPECT_EQ(e.Result(e.world.last_call()).kept, first.kept);
}

TEST(Lazy, EvictionIsCheckedLikeAnyOther) {
  Evicting e(64, 40);
  EvictAsked asked = Lazy(e, 65, 30);
  e.world.Ask(asked);
  EXPECT_THAT(e.Result(e.world.last_call()).outcome, RefusedWith(Code::kInvalidArgument, "written_tokens is 65"));
  asked = Lazy(e, 40, 30);
  asked.items[0].if_version = 5;
  e.world.Ask(asked);
  EXPECT_THAT(e.Result(e.world.last_call()).outcome, RefusedWith(Code::kAborted, "if_version is 5"));
}

}  // namespace
}  // namespace kvsteward::core
