// Sequences: created, imported and released.
#include <gtest/gtest.h>

#include "kvsteward/shm.h"
#include "tests/core/matchers.h"
#include "tests/core/world.h"

namespace kvsteward::core {
namespace {

template <typename E>
std::vector<E> Of(const std::vector<Effect>& effects) {
  std::vector<E> found;
  for (const Effect& effect : effects) {
    if (const E* e = std::get_if<E>(&effect)) found.push_back(*e);
  }
  return found;
}

TEST(Sizes, AreThoseOfTheSharedMemoryHeader) {
  EXPECT_EQ(TableBytes(3, 100), kvs_table_bytes(3, 100));
  // Header, two units, then masks, index lists and scores, each at a multiple of 64.
  EXPECT_EQ(PlanBytes({64, 65}, false), 64u + 64 + (64 + 256) + (64 + 320));
  EXPECT_EQ(PlanBytes({64, 65}, true), 64u + 64 + (64 + 256 + 256) + (64 + 320 + 320));
  EXPECT_EQ(PlanBytes({0, 0, 0}, true), 64u + 128);
}

TEST(CreateSequence, PlacesTheTableInAChunkThatIsExportedFirst) {
  World world(SmallConfig());
  const World::Worker worker = world.Live("a", kShape);
  EXPECT_EQ(world.Ask(CreateOf(worker, 7, 100)), nullptr);
  const auto creating = world.Open<CreateObject>();
  ASSERT_EQ(creating.size(), 1u);
  EXPECT_EQ(creating[0].object.kind, ObjectKind::kTables);
  EXPECT_EQ(creating[0].object.bytes, 4096u);
  world.Finish<CreateObject>();
  EXPECT_EQ(world.exported.back().object.kind, ObjectKind::kTables);
  const auto created = std::get<CreateSequenceReply>(world.ReplyTo(world.last_call())->body);
  EXPECT_EQ(created.table, (TablePlace{0, 64, 7}));  // behind the region's header
  EXPECT_EQ(created.table_chunks, 1u);
  EXPECT_EQ(created.extents, 0u);
  EXPECT_EQ(created.version, 1u);
  const auto second = world.Must<CreateSequenceReply>(CreateOf(worker, 8, 100));
  EXPECT_EQ(second.table, (TablePlace{0, 64 + kvs_table_bytes(2, 7), 7}));
}

TEST(CreateSequence, TakesAnotherChunkWhenNoneHasRoom) {
  World world(SmallConfig());
  const World::Worker worker = world.Live("a", kShape);
  world.Must<CreateSequenceReply>(CreateOf(worker, 1, 100));
  const auto large = world.Must<CreateSequenceReply>(CreateOf(worker, 2, 100'000));
  EXPECT_EQ(large.table, (TablePlace{1, 64, 6250}));
  EXPECT_EQ(large.table_chunks, 2u);
  EXPECT_EQ(world.exported.back().object.bytes, (64 + kvs_table_bytes(2, 6250) + 1023) / 1024 * 1024);
  EXPECT_EQ(world.Must<CreateSequenceReply>(CreateOf(worker, 3, 100)).table.chunk, 0u);
}

TEST(CreateSequence, GivesTheTablePlaceBackOnRelease) {
  World world(SmallConfig());
  const World::Worker worker = world.Live("a", kShape);
  const auto first = world.Must<CreateSequenceReply>(CreateOf(worker, 1, 100));
  world.Must<CreateSequenceReply>(CreateOf(worker, 2, 100));
  world.Must<ReleaseSequenceReply>(ReleaseOf(worker, 1));
  EXPECT_EQ(world.Must<CreateSequenceReply>(CreateOf(worker, 3, 100)).table, first.table);
}

TEST(CreateSequence, IsRefusedWithAReason) {
  Config config = SmallConfig();
  config.max_sequences_per_lease = 1;
  World world(config);
  const World::Worker worker = world.Live("a", kShape);
  world.Must<CreateSequenceReply>(CreateOf(worker, 5, 100, 1));
  EXPECT_THAT(world.Ask(CreateOf(worker, 0, 100)), Refused(Code::kInvalidArgument, "sequence is 0"));
  EXPECT_THAT(world.Ask(CreateOf(worker, 6, 0)), Refused(Code::kInvalidArgument, "max_tokens is 0"));
  EXPECT_THAT(world.Ask(CreateOf(worker, 6, INT32_MAX)), Refused(Code::kInvalidArgument, "max_tokens"));
  EXPECT_THAT(world.Ask(CreateOf(worker, 6, 100)), Refused(Code::kResourceExhausted, "sequences"));
  EXPECT_THAT(world.Ask(CreateOf(worker, 5, 100, 2)), Refused(Code::kInvalidArgument, "sequence 5 exists"));
  EXPECT_EQ(std::get<CreateSequenceReply>(world.Ask(CreateOf(worker, 5, 100, 1))->body).table.row_capacity, 7u);
}

TEST(CreateSequence, NamesTheShortageWhenItsTableDoesNotFit) {
  World world(SmallConfig());
  const World::Worker worker = world.Live("a", kShape);
  const Reply* reply = world.Ask(CreateOf(worker, 1, 1 << 30));
  ASSERT_THAT(reply, Refused(Code::kResourceExhausted, "bytes"));
  EXPECT_GT(reply->outcome.shortage.needed_bytes, kvs_table_bytes(2, 1 << 26));
  EXPECT_EQ(reply->outcome.shortage.free_bytes, world.core.ledger().free);
  EXPECT_TRUE(world.Open<CreateObject>().empty());
}

TEST(Import, SetsTheTableUpWithItsResidents) {
  World world(SmallConfig());
  const World::Worker worker = world.Live("a", kShape);
  std::vector<int32_t> positions = {0, 5, 9};
  for (int32_t p = 0; p < 17; ++p) positions.push_back(p * 2);
  EXPECT_EQ(world.Ask(ImportOf(worker, 1, 100, 40, {3, 17}, positions)), nullptr);
  EXPECT_EQ(world.Open<CreateObject>().size(), 2u);  // a chunk and an extent at once
  std::vector<Effect> effects;
  while (!world.open().empty()) {
    const Event ready = World::Good(world.open()[0]);
    const auto id = std::get<ObjectReady>(ready).object;
    world.Post(ObjectReady{id + 1000, {}});  // of nobody
    world.AnswerOpen(0, ready);
  }
  const auto created = std::get<CreateSequenceReply>(world.ReplyTo(world.last_call())->body);
  EXPECT_EQ(created.extents, 1u);
  EXPECT_EQ(world.core.ledger().used, (1 + 2) * 256u);
  EXPECT_EQ(world.model.Find(worker.lease, 1)->Blocks(), 3u);

  // The same again with room there: the effects come at once and in order.
  CreateSequenceAsked next = ImportOf(worker, 2, 100, 40, {3, 17}, positions);
  next.call = world.NewCall();
  effects = world.Post(next);
  ASSERT_EQ(effects.size(), 3u);
  const auto& init = std::get<InitTable>(effects[0]);
  const auto& store = std::get<StorePositions>(effects[1]);
  EXPECT_TRUE(std::holds_alternative<Reply>(effects[2]));
  ASSERT_EQ(init.units.size(), 2u);
  EXPECT_EQ(init.units[1].kept, 17);
  EXPECT_EQ(init.units[1].base, 40);
  EXPECT_EQ(init.units[1].normed, 0);
  EXPECT_EQ(*store.positions, positions);
  EXPECT_EQ(store.units[0].row, init.units[0].row);

  // The room that there is counts from `seen` on.
  const auto reserved = world.Must<ReserveReply>(ReserveOf(worker, 2, 53, 40));  // 16 and 30 residents
  EXPECT_EQ(reserved.results[0].reserved_tokens, 53);
  EXPECT_EQ(world.model.Find(worker.lease, 2)->Blocks(), 3u);
  world.Must<ReserveReply>(ReserveOf(worker, 2, 54, 40));
  EXPECT_EQ(world.model.Find(worker.lease, 2)->Blocks(), 4u);
  EXPECT_THAT(world.Ask(TruncateOf(worker, 2, 39)), Refused(Code::kFailedPrecondition, "tokens below 40"));
}

TEST(Import, RefusesResidentsThatCannotBe) {
  World world(SmallConfig());
  const World::Worker worker = world.Live("a", kShape);
  struct Case {
    int32_t seen;
    std::vector<int32_t> lengths, positions;
    std::string text;
  };
  for (const Case& c : std::vector<Case>{{-1, {0, 0}, {}, "seen_tokens is -1"},
                                         {101, {0, 0}, {}, "seen_tokens is 101"},
                                         {40, {1}, {0}, "lengths has 1"},
                                         {40, {1, -1}, {0}, "lengths[1] is -1"},
                                         {40, {41, 0}, {0}, "lengths[0] is 41"},
                                         {40, {2, 1}, {0, 1}, "positions has 2"},
                                         {40, {2, 1}, {0, 1, 2, 3}, "positions has 4"},
                                         {40, {2, 1}, {0, 0, 2}, "unit 0 is 0 at index 1"},
                                         {40, {2, 2}, {0, 1, 9, 3}, "unit 1 is 3 at index 1"},
                                         {40, {2, 1}, {0, 1, 40}, "unit 1 is 40 at index 0"},
                                         {40, {2, 1}, {-1, 1, 4}, "unit 0 is -1 at index 0"}}) {
    EXPECT_THAT(world.Ask(ImportOf(worker, 1, 100, c.seen, c.lengths, c.positions)),
                Refused(Code::kInvalidArgument, c.text));
  }
  EXPECT_TRUE(world.Open<CreateObject>().empty());
  CreateSequenceAsked nothing = CreateOf(worker, 1, 100);
  nothing.residents = {10, {1, 0}, nullptr};
  EXPECT_THAT(world.Ask(nothing), Refused(Code::kInvalidArgument, "positions has 0"));
  nothing.residents = {10, {0, 0}, nullptr};  // everything was evicted
  world.Must<CreateSequenceReply>(nothing);
}

TEST(Import, IsAllOrNothing) {
  Config config = SmallConfig();
  config.tenants = {{"a", 5120 + 4096 + 6144}};  // regions, a chunk and one extent
  World world(config);
  const World::Worker worker = world.Live("a", kShape);
  std::vector<int32_t> positions;
  for (int unit = 0; unit < 2; ++unit) {
    for (int32_t p = 0; p < 96; ++p) positions.push_back(p);
  }
  const uint64_t before = world.core.ledger().free;
  EXPECT_THAT(world.Ask(ImportOf(worker, 1, 100, 96, {96, 96}, positions)), Refused(Code::kResourceExhausted, "3072"));
  EXPECT_EQ(world.core.ledger().free, before);
  EXPECT_EQ(world.Status().leases[0].sequences, 0u);
}

TEST(Release, FreesEverythingAndIsRememberedByItsId) {
  World world(SmallConfig());
  const World::Worker worker = world.Live("a", kShape);
  world.Must<CreateSequenceReply>(CreateOf(worker, 1, 100));
  world.Must<ReserveReply>(ReserveOf(worker, 1, 33));
  EXPECT_EQ(world.Must<ReleaseSequenceReply>(ReleaseOf(worker, 1, 9)).blocks_freed, 6u);
  EXPECT_EQ(world.core.ledger().used, 0u);
  EXPECT_EQ(world.Must<ReleaseSequenceReply>(ReleaseOf(worker, 1, 9)).blocks_freed, 6u);
  EXPECT_THAT(world.Ask(ReleaseOf(worker, 2, 9)), Refused(Code::kInvalidArgument, "request_id 9"));
  EXPECT_THAT(world.Ask(ReleaseOf(worker, 1, 10)), Refused(Code::kNotFound, "sequence 1"));
  EXPECT_THAT(world.Ask(ReleaseOf(worker, 1)), Refused(Code::kNotFound, "sequence 1"));
}

TEST(Release, RemembersTheLast64) {
  World world(SmallConfig());
  const World::Worker worker = world.Live("a", kShape);
  for (SequenceId id = 1; id <= 65; ++id) {
    world.Must<CreateSequenceReply>(CreateOf(worker, id, 16));
    world.Must<ReleaseSequenceReply>(ReleaseOf(worker, id, 100 + id));
  }
  EXPECT_THAT(world.Ask(ReleaseOf(worker, 1, 101)), Refused(Code::kNotFound, "sequence 1"));
  world.Must<ReleaseSequenceReply>(ReleaseOf(worker, 2, 102));
}

TEST(Release, CancelsARunningEvictionFirst) {
  World world(SmallConfig());
  const World::Worker worker = world.Live("a", kShape);
  world.Must<CreateSequenceReply>(CreateOf(worker, 1, 100));
  world.Must<ReserveReply>(ReserveOf(worker, 1, 64));
  world.Ask(EvictOf(worker, 1, 64));
  const CallId evict = world.last_call();
  ReleaseSequenceAsked release = ReleaseOf(worker, 1, 3);
  release.call = world.NewCall();
  EXPECT_EQ(Of<CancelJob>(world.Post(release)).size(), 1u);
  EXPECT_THAT(world.Ask(ReleaseOf(worker, 1, 4)), Refused(Code::kFailedPrecondition, "being released"));
  EXPECT_THAT(world.Ask(CreateOf(worker, 1, 100)), Refused(Code::kFailedPrecondition, "being released"));
  const JobId job = world.Open<RunEvict>()[0].job;
  world.AnswerOpen(0, PlanOf(job, {20, 20}));  // it comes too late
  EXPECT_TRUE(world.Open<CompactUnits>().empty());
  EXPECT_EQ(world.ReplyTo(release.call), nullptr);
  world.Finish<EndJob>();
  EXPECT_EQ(std::get<ReleaseSequenceReply>(world.ReplyTo(release.call)->body).blocks_freed, 8u);
  const auto& evicted = std::get<EvictReply>(world.ReplyTo(evict)->body).results.at(0);
  EXPECT_THAT(evicted.outcome, RefusedWith(Code::kCancelled, "cancelled"));
  EXPECT_EQ(world.core.ledger().used, 0u);
  EXPECT_EQ(world.Must<ReleaseSequenceReply>(ReleaseOf(worker, 1, 3)).blocks_freed, 8u);
}

TEST(Release, GoesOnWhenItsCallerIsGone) {
  World world(SmallConfig());
  const World::Worker worker = world.Live("a", kShape);
  world.Must<CreateSequenceReply>(CreateOf(worker, 1, 100));
  world.Ask(EvictOf(worker, 1, 0));
  world.Ask(ReleaseOf(worker, 1, 3));
  world.Post(CallCancelled{world.last_call()});
  world.FinishAll();
  EXPECT_EQ(world.Status().leases[0].sequences, 0u);
  EXPECT_EQ(world.Must<ReleaseSequenceReply>(ReleaseOf(worker, 1, 3)).blocks_freed, 0u);  // and is remembered
}

}  // namespace
}  // namespace kvsteward::core
