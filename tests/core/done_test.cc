// Done words: stored when a sequence is its worker's again, however its item has ended, and before the reply.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/core/evicting.h"
#include "tests/core/matchers.h"

namespace kvsteward::core {
namespace {

struct Giving : Evicting {
  Giving() : Evicting(160) {}
  EvictAsked Named(uint32_t value, SequenceId id = 1) const {
    EvictAsked asked = Item(id);
    asked.items[0].done = WordValue{3, value};
    return asked;
  }
  // Values stored since the last look; all are of the worker's word 3.
  std::vector<uint32_t> Stored() {
    std::vector<uint32_t> values;
    for (const StoreDone& store : world.stored) {
      EXPECT_EQ(store.lease, worker.lease);
      EXPECT_EQ(store.done.slot, 3u);
      values.push_back(store.done.value);
    }
    world.stored.clear();
    return values;
  }
};

using testing::ElementsAre;
using testing::IsEmpty;

TEST(Done, IsStoredBehindTheLastRowAndBeforeTheReply) {
  Giving g;
  const JobId job = g.Ask(g.Named(7));
  const CallId call = g.world.last_call();
  g.Plan(PlanOf(job, {16, 16}));
  g.Compacted(job, 2);
  EXPECT_THAT(g.Stored(), IsEmpty());  // the device has not let go of the sequence
  const std::vector<Effect> effects = g.world.Post(JobEnded{job});
  EXPECT_THAT(g.Stored(), ElementsAre(7));
  ASSERT_GE(effects.size(), 2u);
  EXPECT_TRUE(std::holds_alternative<StoreDone>(effects[0]));
  EXPECT_TRUE(std::holds_alternative<Reply>(effects[1]));
  EXPECT_TRUE(g.Result(call).outcome.ok());
}

TEST(Done, IsStoredWhenTheDeviceRefuses) {
  Giving g;
  EvictPlanned refusal;
  refusal.job = g.Ask(g.Named(7));
  refusal.outcome = {Code::kDeadlineExceeded, "the ready word never came", {}};
  const CallId call = g.world.last_call();
  g.Plan(refusal);
  g.world.FinishAll();
  EXPECT_THAT(g.Result(call).outcome, RefusedWith(Code::kDeadlineExceeded, "never came"));
  EXPECT_THAT(g.Stored(), ElementsAre(7));
}

TEST(Done, IsStoredThoughTheCallWasCancelledOrTheLeaseEnded) {
  for (const bool lease : {false, true}) {
    Giving g;
    g.Ask(g.Named(7));
    if (lease) {
      g.world.Post(SocketClosed{g.worker.socket});
    } else {
      g.world.Post(CallCancelled{g.world.last_call()});
    }
    EXPECT_THAT(g.Stored(), IsEmpty());
    g.world.FinishAll();
    EXPECT_THAT(g.Stored(), ElementsAre(7));
  }
}

TEST(Done, IsStoredForItemsThatNeedNoDevice) {
  Giving g;
  EvictAsked lazy = g.Named(7);
  lazy.items[0].lazy = true;
  lazy.items[0].spec = BudgetOf(200);
  lazy.items[0].request_id = 5;
  EXPECT_EQ(g.Ask(lazy), 0u);
  EXPECT_THAT(g.Stored(), ElementsAre(7));
  EXPECT_EQ(g.Ask(lazy), 0u);  // a repetition
  EXPECT_THAT(g.Stored(), ElementsAre(7));
  EXPECT_EQ(g.Ask(g.Named(8, 99)), 0u);  // an unknown sequence
  EXPECT_THAT(g.Stored(), ElementsAre(8));
  ObserveAsked observe = ObserveOf(g.worker, 1, 1000);  // more than is reserved
  observe.items[0].done = WordValue{3, 9};
  EXPECT_EQ(g.Ask(observe), 0u);
  EXPECT_THAT(g.Stored(), ElementsAre(9));
}

TEST(Done, IsNotStoredWhileAnotherItemHasTheSequence) {
  Giving g;
  g.Ask(g.Named(7));
  EXPECT_EQ(g.Ask(g.Named(8)), 0u);
  EXPECT_THAT(g.Result(g.world.last_call()).outcome, RefusedWith(Code::kFailedPrecondition, "busy"));
  EXPECT_THAT(g.Stored(), IsEmpty());
  g.world.FinishAll();
  EXPECT_THAT(g.Stored(), ElementsAre(7));
}

TEST(Done, IsNotStoredByACallThatIsRefusedAsAWhole) {
  Giving g;
  EvictAsked stale = g.Named(7);
  stale.lease.epoch += 1;
  g.world.Ask(stale);
  EXPECT_THAT(g.world.ReplyTo(g.world.last_call()), Refused(Code::kAborted, "lease.epoch"));
  EXPECT_THAT(g.Stored(), IsEmpty());
}

}  // namespace
}  // namespace kvsteward::core
