// Evictions: what the device is asked, what comes back exactly, waves, cancels and plans.
#include <gtest/gtest.h>

#include "tests/core/evicting.h"
#include "tests/core/matchers.h"

namespace kvsteward::core {
namespace {

TEST(Evict, HandsTheDeviceASnapshot) {
  Evicting e(40, 33);
  EvictAsked asked = e.Item();
  asked.items[0].spec = BudgetOf(30);
  const JobId job = e.Ask(asked);
  const RunEvict run = e.world.Open<RunEvict>().at(0);
  EXPECT_EQ(run.job, job);
  EXPECT_EQ(run.tenant, "a");
  EXPECT_EQ(run.shape, kShape);
  EXPECT_EQ(run.written_tokens, 33);
  EXPECT_EQ(run.table.row_capacity, 63u);
  EXPECT_EQ(run.spec, asked.items[0].spec);
  ASSERT_EQ(run.units.size(), 2u);
  EXPECT_EQ(run.units[0].row, (Row{{0, 3}}));
}

TEST(Evict, FreesExactlyTheBlocksThatTheArithmeticSays) {
  struct Case {
    int32_t reserved, written;
    std::vector<int32_t> kept;
    uint64_t blocks_freed;
    uint32_t compacted;
  };
  for (const Case& c :
       std::vector<Case>{{112, 100, {20, 50}, 14 - 2 - 4, 2},
                         {100, 100, {99, 97}, 0, 2},           // less than a block each
                         {100, 100, {96, 81}, 1 + 1, 2},       // 7 blocks: 6 are left, and 6
                         {100, 100, {0, 100}, 7, 1},           // an empty row, and one that is not touched
                         {128, 100, {100, 16}, 1 + 8 - 1, 1},  // the untouched row loses its unused tail
                         {128, 100, {100, 100}, 2, 0},         // not a no-op, though nothing shrinks
                         {16, 1, {0, 0}, 2, 2}}) {
    SCOPED_TRACE(testing::PrintToString(c.kept));
    Evicting e(c.reserved, c.written);
    const uint64_t before = e.world.core.ledger().used;
    const EvictResult result = e.Evict(e.Item(), c.kept);
    ASSERT_TRUE(result.outcome.ok()) << result.outcome.message;
    EXPECT_EQ(result.lengths, (std::vector<int32_t>{c.written, c.written}));
    EXPECT_EQ(result.kept, c.kept);
    EXPECT_EQ(result.units_compacted, c.compacted);
    EXPECT_EQ(result.blocks_freed, c.blocks_freed);
    EXPECT_EQ(result.bytes_returned, c.blocks_freed * kBlock);
    EXPECT_EQ(result.bytes_evicted, static_cast<uint64_t>(2 * c.written - c.kept[0] - c.kept[1]) * kBlock / 16);
    EXPECT_EQ(result.version, 2u);
    EXPECT_EQ(e.world.core.ledger().used, before - c.blocks_freed * kBlock);
  }
}

TEST(Evict, SettlesTheUnitsThatShrankAndRoomIsCountedFromThere) {
  Evicting e(128, 100);
  e.Evict(e.Item(), {100, 16});
  const std::vector<Unit> units = e.Units();
  EXPECT_EQ(units[0].kept, 0);  // not settled: nothing of it moved
  EXPECT_EQ(units[0].base, 0);
  EXPECT_EQ(units[1].kept, 16);
  EXPECT_EQ(units[1].base, 100);
  EXPECT_EQ(units[0].normed, 100);
  EXPECT_EQ(units[1].normed, 16);
  EXPECT_EQ(e.world.Must<ReserveReply>(ReserveOf(e.worker, 1, 90, 100)).results[0].reserved_tokens, 100);
  e.world.Must<ReserveReply>(ReserveOf(e.worker, 1, 113, 100));  // 113 and 29 residents
  EXPECT_EQ(e.world.core.ledger().used, (8 + 2) * kBlock);
  EXPECT_THAT(e.world.Ask(TruncateOf(e.worker, 1, 99)), Refused(Code::kFailedPrecondition, "tokens below 100"));
  e.world.Must<TruncateReply>(TruncateOf(e.worker, 1, 100));
}

TEST(Evict, KeepsNormsOnlyIfAllAreKnown) {
  for (const bool cached : {true, false}) {
    Evicting e(64);
    const JobId job = e.Ask(e.Item());
    e.Plan(PlanOf(job, {20, 64}, cached ? std::optional<uint8_t>(3) : std::nullopt));
    e.world.FinishAll();
    const std::vector<Unit> units = e.Units();
    EXPECT_EQ(units[0].normed, cached ? 20 : 0);
    EXPECT_EQ(units[1].normed, cached ? 64 : 0);
  }
  // Norms of another kind in some layers: none may be used, even if nothing was evicted.
  Evicting e(64);
  e.Plan(PlanOf(e.Ask(e.Item()), {20, 64}));
  e.world.FinishAll();
  EvictPlanned failed = PlanOf(e.Ask(e.Item()), {}, 0);
  EXPECT_EQ(e.world.Open<RunEvict>().at(0).norms, 1);
  failed.outcome = {Code::kInvalidArgument, "values[0] is NaN", {}};
  e.Plan(failed);
  e.world.FinishAll();
  EXPECT_EQ(e.Units()[0].normed, 0);
  EXPECT_EQ(e.Units()[1].normed, 0);
}

TEST(Evict, ChangesNothingOnARefusalANoOpOrAPlan) {
  struct Case {
    std::string name;
    bool plan_only, no_op;
    Outcome outcome;
  };
  for (const Case& c : std::vector<Case>{{"refused", false, false, {Code::kInvalidArgument, "keys[0] is NaN", {}}},
                                         {"no_op", false, true, {}},
                                         {"plan_only", true, false, {}}}) {
    SCOPED_TRACE(c.name);
    Evicting e(64, 60);
    EvictAsked asked = e.Item();
    asked.items[0].plan_only = c.plan_only;
    const JobId job = e.Ask(asked);
    const CallId call = e.world.last_call();
    EvictPlanned planned = PlanOf(job, {10, 20});
    planned.outcome = c.outcome;
    planned.no_op = c.no_op;
    planned.budget_tokens = 15;
    planned.times = {1, 2, 3, 4};
    e.Plan(planned);
    EXPECT_TRUE(e.world.Open<CompactUnits>().empty());
    e.world.FinishAll();
    const EvictResult result = e.Result(call);
    EXPECT_EQ(result.outcome.code, c.outcome.code);
    EXPECT_EQ(result.outcome.message, c.outcome.message);
    EXPECT_EQ(result.no_op, c.no_op);
    EXPECT_EQ(result.version, 1u);
    EXPECT_EQ(result.blocks_freed, 0u);
    if (c.outcome.ok()) {
      EXPECT_EQ(result.budget_tokens, 15);
      EXPECT_EQ(result.times.select_us, 3u);
      EXPECT_EQ(result.lengths, (std::vector<int32_t>{60, 60}));
      EXPECT_EQ(result.kept, c.no_op ? result.lengths : (std::vector<int32_t>{10, 20}));
    } else {
      EXPECT_TRUE(result.lengths.empty() && result.kept.empty());
    }
    const std::vector<Unit> units = e.Units();
    EXPECT_EQ(units[0].base, 0);
    EXPECT_EQ(units[0].normed, 60);  // read by the scoring pass whatever came of it
    EXPECT_EQ(e.world.Must<ReserveReply>(ReserveOf(e.worker, 1, 1, 60)).results[0].reserved_tokens, 64);
  }
}

TEST(Evict, RefusesAPlanThatDoesNotFit) {
  for (const std::vector<int32_t>& kept : std::vector<std::vector<int32_t>>{{10}, {10, 65}, {-1, 10}}) {
    Evicting e(64);
    EXPECT_THAT(e.Evict(e.Item(), kept).outcome, RefusedWith(Code::kUnavailable, "does not fit"));
  }
}

TEST(Evict, ChecksEveryItemForItself) {
  Evicting e(64, 40);
  e.Add(2, 16);
  e.Add(3, 16);
  e.Ask(EvictOf(e.worker, 2, 16));  // busy from here on
  EvictAsked asked = e.Item();
  const EvictItem good = asked.items[0];
  const auto add = [&](auto change) {
    asked.items.push_back(good);
    change(asked.items.back());
  };
  asked.items.clear();
  add([](EvictItem& i) { i.sequence = 9; });
  add([](EvictItem& i) { i.sequence = 2; });
  add([](EvictItem& i) { i.written_tokens = 65; });
  add([](EvictItem& i) { i.if_version = 2; });
  add([](EvictItem& i) { i.if_version = 1; });
  add([](EvictItem&) {});
  e.world.Ask(asked);
  const CallId call = e.world.last_call();
  EXPECT_EQ(e.world.ReplyTo(call), nullptr);
  e.world.FinishAll();
  const std::vector<std::pair<Code, std::string>> expected = {{Code::kNotFound, "sequence 9"},
                                                              {Code::kFailedPrecondition, "sequence 2 is busy"},
                                                              {Code::kInvalidArgument, "written_tokens is 65"},
                                                              {Code::kAborted, "if_version is 2"},
                                                              {Code::kOk, ""},
                                                              {Code::kFailedPrecondition, "sequence 1 is busy"}};
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_THAT(e.Result(call, i).outcome, RefusedWith(expected[i].first, expected[i].second));
  }
}

TEST(Evict, OfABusySequenceIsRefusedAndSoIsAllElse) {
  Evicting e(64, 40);
  EvictAsked asked = e.Item();
  asked.items[0].request_id = 8;
  e.Ask(asked);
  e.world.Ask(asked);  // the same request while it runs
  EXPECT_THAT(e.Result(e.world.last_call()).outcome, RefusedWith(Code::kFailedPrecondition, "busy"));
  EXPECT_THAT(e.world.Must<ReserveReply>(ReserveOf(e.worker, 1, 70, 40)).results[0].outcome,
              RefusedWith(Code::kFailedPrecondition, "busy"));
  EXPECT_THAT(e.world.Ask(TruncateOf(e.worker, 1, 10)), Refused(Code::kFailedPrecondition, "busy"));
}

TEST(Evict, QueuesOnlySoManyPerLease) {
  Config config = SmallConfig();
  config.queued_evicts_per_lease = 1;
  Evicting e(64, 64, config);
  e.Add(2, 16);
  e.Ask(e.Item());
  e.world.Ask(EvictOf(e.worker, 2, 16));
  const EvictResult refused = e.Result(e.world.last_call());
  EXPECT_THAT(refused.outcome, RefusedWith(Code::kResourceExhausted, "retry"));
  EXPECT_GT(refused.outcome.shortage.retry_after_us, 0u);
  e.world.FinishAll();
  EXPECT_TRUE(e.Evict(EvictOf(e.worker, 2, 16), {1, 1}).outcome.ok());
}

TEST(Evict, ReplaysItsResult) {
  Evicting e(64);
  EvictAsked asked = e.Item();
  asked.items[0].request_id = 8;
  asked.items[0].request_hash = 80;
  const EvictResult first = e.Evict(asked, {10, 20});
  e.world.Ask(asked);
  const EvictResult again = e.Result(e.world.last_call());
  EXPECT_TRUE(e.world.open().empty());
  EXPECT_EQ(again.blocks_freed, first.blocks_freed);
  EXPECT_EQ(again.version, 2u);
  EXPECT_NE(first.policy, nullptr);
  EXPECT_EQ(again.policy, nullptr);  // that it is a repetition shows in this
  asked.items[0].request_hash = 81;
  e.world.Ask(asked);
  EXPECT_THAT(e.Result(e.world.last_call()).outcome, RefusedWith(Code::kInvalidArgument, "request_id 8"));
}

// Rows of 5 blocks in one extent of 16: 6 are free.
TEST(Waves, TakeAsManyUnitsAsFreeBlocksSufficeFor) {
  Evicting e(80);
  const JobId job = e.Ask(e.Item());
  const CallId call = e.world.last_call();
  e.Plan(PlanOf(job, {60, 60}));
  ASSERT_EQ(e.world.Open<CompactUnits>().at(0).units.size(), 1u);
  EXPECT_EQ(e.world.Open<CompactUnits>()[0].units[0].unit, 0u);
  e.Compacted(job, 1);
  ASSERT_EQ(e.world.Open<CompactUnits>().at(0).units.size(), 1u);
  EXPECT_EQ(e.world.Open<CompactUnits>()[0].units[0].unit, 1u);
  e.Compacted(job, 1);
  e.world.FinishAll();
  EXPECT_EQ(e.Result(call).units_compacted, 2u);
  EXPECT_EQ(e.Result(call).times.compact_us, 10u);

  Evicting small(80);
  small.Ask(small.Item());
  small.Plan(PlanOf(1, {40, 40}));  // 3 blocks each: one wave
  EXPECT_EQ(small.world.Open<CompactUnits>().at(0).units.size(), 2u);
}

// Two layers of two units; one extent of 16 blocks.
constexpr Shape kLayers{4, 256, 2};

TEST(Waves, AreWholeLayersIfFreeBlocksSufficeForOne) {
  Evicting e(48, 48, SmallConfig(), kLayers);  // 4 times 3 blocks, which leaves 4
  const JobId job = e.Ask(e.Item());
  e.Plan(PlanOf(job, {10, 10, 20, 20}));  // 1 + 1, and 2 + 2
  EXPECT_EQ(e.world.Open<CompactUnits>().at(0).units.size(), 2u);
  e.Compacted(job, 2);
  EXPECT_EQ(e.world.Open<CompactUnits>().at(0).units.size(), 2u);
  e.world.FinishAll();

  Evicting roomy(48, 48, SmallConfig(), kLayers);
  roomy.Ask(roomy.Item());
  roomy.Plan(PlanOf(1, {10, 10, 10, 10}));
  EXPECT_EQ(roomy.world.Open<CompactUnits>().at(0).units.size(), 4u);
  roomy.world.FinishAll();
}

TEST(Waves, OfACancelledJobEndWithTheLayer) {
  Evicting e(48, 48, SmallConfig(), kLayers);
  const JobId job = e.Ask(e.Item());
  e.Plan(PlanOf(job, {40, 40, 40, 40}));  // 3 blocks each: room for one unit
  ASSERT_EQ(e.world.Open<CompactUnits>().at(0).units.size(), 1u);
  e.world.Post(CallCancelled{e.world.last_call()});
  e.Compacted(job, 1);
  ASSERT_EQ(e.world.Open<CompactUnits>().size(), 1u);
  ASSERT_EQ(e.world.Open<CompactUnits>()[0].units.size(), 1u);
  EXPECT_EQ(e.world.Open<CompactUnits>()[0].units[0].unit, 1u);
  e.Compacted(job, 1);
  EXPECT_EQ(e.world.Open<EndJob>().size(), 1u);
  e.world.FinishAll();
  const std::vector<Unit> units = e.Units();
  for (size_t u = 0; u < units.size(); ++u) {
    EXPECT_EQ(units[u].kept, u < 2 ? 40 : 0) << u;
    EXPECT_EQ(units[u].base, u < 2 ? 48 : 0) << u;
  }
}

TEST(Waves, OfOneJobWaitForAnothers) {
  Evicting e(32);  // 2 + 2 blocks
  e.Add(2, 64);    // 4 + 4, which leaves 4
  const JobId first = e.Ask(EvictOf(e.worker, 1, 32));
  const JobId second = e.Ask(EvictOf(e.worker, 2, 64));
  const CallId call = e.world.last_call();
  e.Plan(PlanOf(first, {31, 31}));  // 2 + 2: takes all
  e.Plan(PlanOf(second, {50, 50}));
  ASSERT_EQ(e.world.Open<CompactUnits>().size(), 1u);
  e.world.now += Duration{1000};
  e.Compacted(first, 2);
  ASSERT_EQ(e.world.Open<CompactUnits>().size(), 1u);
  EXPECT_EQ(e.world.Open<CompactUnits>()[0].job, second);
  e.world.FinishAll();
  EXPECT_TRUE(e.Result(call).outcome.ok());
  EXPECT_GE(e.Result(call).times.queue_us, 1000u);  // the wait counts as queueing
}

TEST(Waves, GoOnWhenSomethingElseFreesBlocks) {
  for (const std::string how : {"release", "truncate", "growth"}) {
    SCOPED_TRACE(how);
    Evicting e(16);  // 1 + 1
    e.Add(2, 64);    // 4 + 4
    e.Add(3, 16);    // 1 + 1, which leaves 4
    const JobId first = e.Ask(EvictOf(e.worker, 2, 64));
    e.Plan(PlanOf(first, {60, 64}));  // takes all 4
    const JobId second = e.Ask(EvictOf(e.worker, 1, 16));
    e.Plan(PlanOf(second, {10, 16}));
    ASSERT_EQ(e.world.Open<CompactUnits>().size(), 1u);
    if (how == "release") {
      e.world.Must<ReleaseSequenceReply>(ReleaseOf(e.worker, 3));
    } else if (how == "truncate") {
      e.world.Must<TruncateReply>(TruncateOf(e.worker, 3, 0));
    } else {
      e.Add(4, 16);  // nothing may be reserved from what waves need: the lease grows
      EXPECT_EQ(e.world.Status().leases[0].extents, 2u);
    }
    EXPECT_EQ(e.world.Open<CompactUnits>().size(), 2u);
  }
}

TEST(Waves, ThatTheDeviceCutsShortEndTheJobWithItsReason) {
  Evicting e(64);
  const JobId job = e.Ask(e.Item());
  const CallId call = e.world.last_call();
  e.Plan(PlanOf(job, {10, 10}));
  ASSERT_EQ(e.world.Open<CompactUnits>().at(0).units.size(), 2u);
  for (size_t i = 0; i < e.world.open().size(); ++i) {
    if (!std::holds_alternative<CompactUnits>(e.world.open()[i])) continue;
    e.world.AnswerOpen(i, UnitsCompacted{job, 1, 5, {Code::kResourceExhausted, "no memory", {}}});
    break;
  }
  e.world.FinishAll();
  EXPECT_EQ(e.Result(call).outcome.code, Code::kResourceExhausted);
  EXPECT_EQ(e.Result(call).outcome.message, "no memory");
  EXPECT_EQ(e.Result(call).units_compacted, 1u);
  EXPECT_EQ(e.Result(call).kept, (std::vector<int32_t>{10, 64}));
}

TEST(Waves, StopAfterACancelAndFinishedUnitsStay) {
  Evicting e(64);
  const JobId job = e.Ask(e.Item());
  e.Plan(PlanOf(job, {10, 10}));
  e.world.Post(CallCancelled{e.world.last_call()});
  e.Compacted(job, 1);
  EXPECT_EQ(e.world.Open<EndJob>().size(), 1u);
  e.world.FinishAll();
  EXPECT_EQ(e.world.core.ledger().used, (1 + 4) * kBlock);
  const std::vector<Unit> units = e.Units();
  EXPECT_EQ(units[0].kept, 10);
  EXPECT_EQ(units[0].base, 64);
  EXPECT_EQ(units[1].base, 0);
  EvictAsked stale = e.Item();
  stale.items[0].if_version = 1;
  e.world.Ask(stale);
  EXPECT_THAT(e.Result(e.world.last_call()).outcome, RefusedWith(Code::kAborted, "version is 2"));
}

TEST(Waves, CancelledBeforeTheFirstUnitChangeNothing) {
  Evicting e(64, 40);
  const JobId job = e.Ask(e.Item());
  e.Plan(PlanOf(job, {10, 10}));
  e.world.Post(CallCancelled{e.world.last_call()});
  e.Compacted(job, 0);
  e.world.FinishAll();
  EXPECT_EQ(e.world.core.ledger().used, 8 * kBlock);
  const ReserveResult kept = e.world.Must<ReserveReply>(ReserveOf(e.worker, 1, 0, 40)).results[0];
  EXPECT_EQ(kept.reserved_tokens, 64);
  EXPECT_EQ(kept.version, 1u);
}

TEST(Waves, CancelledInTheQueueLeaveIt) {
  Evicting e(64);  // 4 + 4
  e.Add(2, 16);    // 1 + 1, which leaves 6
  const JobId first = e.Ask(EvictOf(e.worker, 1, 64));
  e.Plan(PlanOf(first, {60, 20}));  // 4 + 2: takes all
  const JobId second = e.Ask(EvictOf(e.worker, 2, 16));
  e.Plan(PlanOf(second, {5, 5}));
  e.world.Post(CallCancelled{e.world.last_call()});
  ASSERT_EQ(e.world.Open<EndJob>().size(), 1u);
  EXPECT_EQ(e.world.Open<EndJob>()[0].job, second);
  e.world.FinishAll();
}

TEST(Plans, LieInTheRegionUntilTheNextCall) {
  Evicting e(64);
  EvictAsked asked = e.Item();
  asked.items[0].plan_only = true;
  asked.items[0].export_plan = true;
  asked.items[0].request_id = 4;
  const uint64_t bytes = PlanBytes({64, 64}, false);
  const EvictResult first = e.Evict(asked, {10, 20});
  EXPECT_EQ(first.plan, (PlanPlace{64, bytes}));  // behind the region's header
  e.Add(2, 64);
  EvictAsked other = asked;
  other.items[0].sequence = 2;
  EXPECT_EQ(e.Evict(other, {1, 1}).plan, (PlanPlace{64 + bytes, bytes}));
  e.world.Ask(asked);  // a repetition is no new call: the plan is still there
  EXPECT_EQ(e.Result(e.world.last_call()).plan, first.plan);
  e.world.Must<ReserveReply>(ReserveOf(e.worker, 1, 0, 64));
  e.world.Ask(asked);
  EXPECT_EQ(e.Result(e.world.last_call()).plan, PlanPlace{});
  asked.items[0].request_id = 5;
  asked.items[0].export_scores = true;  // larger: it goes behind the other one
  EXPECT_EQ(e.Evict(asked, {1, 1}).plan, (PlanPlace{64 + 2 * bytes, PlanBytes({64, 64}, true)}));
}

TEST(Plans, ThatDoNotFitAreRefused) {
  Config config = SmallConfig();
  World world(config);
  World::Worker worker;
  const auto attached = world.Must<AttachReply>(world.AttachOf(world.Connect("a"), kShape, 0));
  worker.ref = {attached.key, attached.epoch};
  world.Ask(HoldOpened{0, worker.ref});
  world.FinishAll();
  world.Must<CreateSequenceReply>(CreateOf(worker, 1, 100));
  EvictAsked none = EvictOf(worker, 1, 0);
  none.items[0].export_plan = true;
  EXPECT_THAT(world.Must<EvictReply>(none).results[0].outcome, RefusedWith(Code::kFailedPrecondition, "plan_bytes"));

  Evicting e(640);
  EvictAsked asked = e.Item();
  asked.items[0].export_plan = true;
  const uint64_t bytes = PlanBytes({640, 640}, false);  // of 4032
  ASSERT_GT(bytes, 4032u);
  e.world.Ask(asked);
  const EvictResult refused = e.Result(e.world.last_call());
  EXPECT_THAT(refused.outcome, RefusedWith(Code::kResourceExhausted, "plan_bytes"));
  EXPECT_EQ(refused.outcome.shortage, (Shortage{bytes, 4032, 0, 0}));
}

TEST(Plans, OfARefusedEvictionAreGone) {
  Evicting e(64);
  EvictAsked asked = e.Item();
  asked.items[0].export_plan = true;
  const JobId job = e.Ask(asked);
  const CallId call = e.world.last_call();
  EvictPlanned planned = PlanOf(job, {});
  planned.outcome = {Code::kInvalidArgument, "keys[0] is NaN", {}};
  e.Plan(planned);
  e.world.FinishAll();
  EXPECT_EQ(e.Result(call).plan, PlanPlace{});
  EXPECT_EQ(e.Evict(asked, {1, 1}).plan.offset, 64u);
}

}  // namespace
}  // namespace kvsteward::core
