// Reserve and Truncate: rows, the compaction reserve, growth and its queue, repetition.
#include <gtest/gtest.h>

#include "tests/core/matchers.h"
#include "tests/core/world.h"

namespace kvsteward::core {
namespace {

World::Worker WithSequence(World& world, SequenceId id = 1, int32_t max_tokens = 1000) {
  const World::Worker worker = world.Live("a", kShape);
  world.Must<CreateSequenceReply>(CreateOf(worker, id, max_tokens));
  return worker;
}

// Posts a Reserve and returns the rows that grew.
std::vector<AppendToRow> Rows(World& world, ReserveAsked asked) {
  asked.call = world.NewCall();
  for (const Effect& effect : world.Post(asked)) {
    if (const auto* append = std::get_if<AppendRows>(&effect)) return append->rows;
  }
  return {};
}

TEST(Reserve, AppendsExactlyTheNewBlocks) {
  World world(SmallConfig());
  const World::Worker worker = WithSequence(world);
  world.Must<ReserveReply>(ReserveOf(worker, 1, 1));
  std::vector<AppendToRow> rows = Rows(world, ReserveOf(worker, 1, 48));
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].unit, 0u);
  EXPECT_EQ(rows[0].from, 1u);
  EXPECT_EQ(rows[0].blocks, (Row{{2, 2}}));  // one run per unit
  EXPECT_EQ(rows[1].unit, 1u);
  EXPECT_EQ(rows[1].blocks, (Row{{4, 2}}));
  EXPECT_TRUE(Rows(world, ReserveOf(worker, 1, 40)).empty());  // less than there is changes nothing
  EXPECT_EQ(world.Must<ReserveReply>(ReserveOf(worker, 1, 30)).results[0].reserved_tokens, 48);
  rows = Rows(world, ReserveOf(worker, 1, 49));
  EXPECT_EQ(rows.at(1).from, 3u);
  EXPECT_EQ(world.core.ledger().used, 8 * 256u);
}

TEST(Reserve, GrowsByJustEnoughToKeepTheCompactionReserve) {
  struct Case {
    int64_t ppm;
    int32_t tokens;
    size_t extents;
  };
  // 16 blocks an extent, two rows; the reserve is the longest row or its share of all blocks, rounded up.
  for (const Case& c : std::vector<Case>{{0, 80, 1},        // 10 + 5
                                         {0, 96, 2},        // 12 + 6
                                         {10'000, 16, 1},   // 2 + 1
                                         {500'000, 64, 1},  // 8 + 8
                                         {500'000, 65, 2},  // 10 + 16 of 32
                                         {999'999, 16, 0},  // no number of extents will do
                                         {-5, 80, 1}}) {
    SCOPED_TRACE(c.tokens);
    Config config = SmallConfig();
    config.compaction_reserve_ppm = c.ppm;
    World world(config);
    const World::Worker worker = WithSequence(world);
    const ReserveReply reply = world.Must<ReserveReply>(ReserveOf(worker, 1, c.tokens));
    EXPECT_EQ(reply.extents, c.extents);
    EXPECT_EQ(reply.results[0].outcome.ok(), c.extents > 0);
  }
}

TEST(Reserve, IsRefusedPerSequence) {
  World world(SmallConfig());
  const World::Worker worker = WithSequence(world);
  world.Must<ReserveReply>(ReserveOf(worker, 1, 32));
  world.Must<ReserveReply>(ReserveOf(worker, 1, 32, 20));
  struct Case {
    ReserveItem item;
    Code code;
    std::string text;
  };
  std::vector<ReserveItem> items;
  const std::vector<Case> cases = {
      {{9, 0, 0, 10, 0}, Code::kNotFound, "sequence 9"},
      {{1, 0, 0, 1001, 20}, Code::kInvalidArgument, "total_tokens is 1001"},
      {{1, 0, 0, -1, 20}, Code::kInvalidArgument, "total_tokens is -1"},
      {{1, 0, 0, 32, 33}, Code::kInvalidArgument, "written_tokens is 33 but only 32"},
      {{1, 0, 0, 32, 19}, Code::kInvalidArgument, "written_tokens is 19 after 20"},
      {{1, 0, 0, 40, 21}, Code::kOk, ""},
  };
  for (const Case& c : cases) items.push_back(c.item);
  const ReserveReply reply = world.Must<ReserveReply>(ReserveOf(worker, items));
  ASSERT_EQ(reply.results.size(), cases.size());
  for (size_t i = 0; i < cases.size(); ++i) {
    EXPECT_EQ(reply.results[i].sequence, cases[i].item.sequence);
    EXPECT_THAT(reply.results[i].outcome, RefusedWith(cases[i].code, cases[i].text));
  }
  EXPECT_EQ(reply.results[1].reserved_tokens, 32);
  EXPECT_EQ(reply.results[5].reserved_tokens, 40);
}

TEST(Reserve, OfASequenceThatDoesNotFitNamesTheShortageAndStopsNoOther) {
  Config config = SmallConfig();
  config.tenants = {{"a", 5120 + 4096 + 7168}};  // regions, a chunk and one extent
  World world(config);
  const World::Worker worker = WithSequence(world);
  world.Must<CreateSequenceReply>(CreateOf(worker, 2, 100));
  const ReserveReply reply =
      world.Must<ReserveReply>(ReserveOf(worker, std::vector<ReserveItem>{{1, 0, 0, 96, 0}, {2, 0, 0, 32, 0}}));
  EXPECT_THAT(reply.results[0].outcome, RefusedWith(Code::kResourceExhausted, "3072 bytes are needed and 2560"));
  EXPECT_EQ(reply.results[0].outcome.shortage, (Shortage{12 * 256, 10 * 256, 0, 0}));
  EXPECT_EQ(reply.results[0].reserved_tokens, 0);
  EXPECT_TRUE(reply.results[1].outcome.ok());
  EXPECT_EQ(reply.extents, 1u);
  // What was said to be free can be had.
  world.Must<ReleaseSequenceReply>(ReleaseOf(worker, 2));
  EXPECT_TRUE(world.Must<ReserveReply>(ReserveOf(worker, 1, 80)).results[0].outcome.ok());
}

TEST(Reserve, OfMoreBlocksThanCanBeNumberedIsRefused) {
  Config config = SmallConfig();
  config.arena_bytes = uint64_t{1} << 60;
  config.tenants = {{"a", uint64_t{1} << 60}};
  World world(config);
  const World::Worker worker = world.Live("a", {64, 256});
  world.Must<CreateSequenceReply>(CreateOf(worker, 1, 1 << 30));
  const ReserveReply reply = world.Must<ReserveReply>(ReserveOf(worker, 1, 1 << 30));
  EXPECT_THAT(reply.results[0].outcome, RefusedWith(Code::kResourceExhausted, "bytes"));
  EXPECT_EQ(reply.results[0].outcome.shortage.needed_bytes, uint64_t{1} << 40);
}

TEST(Growth, ThatFailsGivesAllOfItBack) {
  World world(SmallConfig());
  const World::Worker worker = WithSequence(world);
  const uint64_t before = world.core.ledger().free;
  EXPECT_EQ(world.Ask(ReserveOf(worker, 1, 96)), nullptr);
  const CallId call = world.last_call();
  const auto creating = world.Open<CreateObject>();
  ASSERT_EQ(creating.size(), 2u);
  EXPECT_EQ(creating[1].object.index, 1u);
  EXPECT_EQ(creating[1].object.private_bytes, kPrivateBytes);
  const size_t exported = world.exported.size();
  world.AnswerOpen(0, ObjectReady{creating[0].object.id, {Code::kResourceExhausted, "no pages", {}}});
  world.Finish<CreateObject>();
  const auto& result = std::get<ReserveReply>(world.ReplyTo(call)->body).results.at(0);
  EXPECT_THAT(result.outcome, RefusedWith(Code::kResourceExhausted, "no pages"));
  EXPECT_EQ(result.outcome.shortage, (Shortage{12 * 256, 0, 0, 0}));
  EXPECT_EQ(world.exported.size(), exported);
  world.FinishMemory();
  EXPECT_EQ(world.core.ledger().free, before);
  EXPECT_EQ(world.Must<ReserveReply>(ReserveOf(worker, 1, 96)).extents, 2u);  // the indices have no hole
}

TEST(Growth, HoldsTheQueueInOrder) {
  World world(SmallConfig());
  const World::Worker worker = WithSequence(world);
  world.Must<CreateSequenceReply>(CreateOf(worker, 2, 100));
  world.Ask(ReserveOf(worker, 1, 80));
  const CallId first = world.last_call();
  world.Ask(ReserveOf(worker, 2, 16));
  const CallId second = world.last_call();
  world.Ask(CreateOf(worker, 3, 16));
  const CallId third = world.last_call();
  EXPECT_EQ(world.Open<CreateObject>().size(), 1u);
  world.Finish<CreateObject>();  // all for the first: the second makes the lease grow again
  EXPECT_NE(world.ReplyTo(first), nullptr);
  EXPECT_EQ(world.ReplyTo(second) == nullptr, world.ReplyTo(third) == nullptr);
  world.FinishMemory();
  EXPECT_EQ(std::get<ReserveReply>(world.ReplyTo(second)->body).extents, 2u);
  EXPECT_NE(world.ReplyTo(third), nullptr);
}

TEST(Growth, LetsOnlySoManyCallsWait) {
  World world(SmallConfig());
  const World::Worker worker = WithSequence(world);
  for (int i = 0; i < 64; ++i) ASSERT_EQ(world.Ask(ReserveOf(worker, 1, 80)), nullptr);
  const CallId last = world.last_call();
  for (const Reply* reply : {world.Ask(ReserveOf(worker, 1, 80)), world.Ask(CreateOf(worker, 2, 100))}) {
    ASSERT_THAT(reply, Refused(Code::kResourceExhausted, "64 calls waiting"));
    EXPECT_GT(reply->outcome.shortage.retry_after_us, 0u);
  }
  world.Post(CallCancelled{last});
  EXPECT_EQ(world.Ask(ReserveOf(worker, 1, 80)), nullptr);  // its place is free
  world.FinishMemory();
  EXPECT_TRUE(world.Must<ReserveReply>(ReserveOf(worker, 1, 80)).results[0].outcome.ok());
}

TEST(Growth, StaysWithTheLeaseWhenItsCallIsCancelled) {
  World world(SmallConfig());
  const World::Worker worker = WithSequence(world);
  world.Ask(ReserveOf(worker, 1, 80));
  world.Post(CallCancelled{world.last_call()});
  world.Ask(ReserveOf(worker, 1, 64));
  const CallId next = world.last_call();
  EXPECT_EQ(world.ReplyTo(next), nullptr);
  ASSERT_EQ(world.Open<CreateObject>().size(), 1u);
  world.Finish<CreateObject>();
  EXPECT_EQ(std::get<ReserveReply>(world.ReplyTo(next)->body).results[0].reserved_tokens, 64);
  EXPECT_TRUE(world.open().empty());
}

TEST(Growth, ThatFailedForACancelledCallIsNotTheNextOnesFault) {
  World world(SmallConfig());
  const World::Worker worker = WithSequence(world);
  world.Ask(ReserveOf(worker, 1, 80));
  world.Post(CallCancelled{world.last_call()});
  world.Ask(ReserveOf(worker, 1, 64));
  world.AnswerOpen(0, ObjectReady{world.Open<CreateObject>()[0].object.id, {Code::kResourceExhausted, "no pages", {}}});
  ASSERT_EQ(world.Open<CreateObject>().size(), 1u);  // it tries for itself
  world.FinishMemory();
  EXPECT_TRUE(std::get<ReserveReply>(world.ReplyTo(world.last_call())->body).results[0].outcome.ok());
}

TEST(Repetition, ReplaysTheLastResultOfASequence) {
  World world(SmallConfig());
  const World::Worker worker = WithSequence(world);
  const auto item = [](uint64_t id, uint64_t hash, int32_t total) { return ReserveItem{1, id, hash, total, 0}; };
  const auto reserve = [&](const ReserveItem& i) {
    return world.Must<ReserveReply>(ReserveOf(worker, std::vector<ReserveItem>{i})).results.at(0);
  };
  EXPECT_EQ(reserve(item(5, 50, 32)).reserved_tokens, 32);
  EXPECT_EQ(reserve(item(0, 0, 48)).reserved_tokens, 48);
  EXPECT_EQ(reserve(item(5, 50, 32)).reserved_tokens, 32);  // as it was then
  EXPECT_THAT(reserve(item(5, 51, 64)).outcome, RefusedWith(Code::kInvalidArgument, "request_id 5"));
  EXPECT_EQ(reserve(item(6, 60, 64)).reserved_tokens, 64);
  EXPECT_EQ(reserve(item(5, 51, 70)).reserved_tokens, 70);  // only the last one is known
  EXPECT_THAT(world.Ask(TruncateOf(worker, 1, 0, 5)), Refused(Code::kInvalidArgument, "request_id 5"));
}

TEST(Repetition, OfARefusalTriesAgain) {
  World world(SmallConfig());
  const World::Worker worker = WithSequence(world);
  ReserveItem item{1, 5, 50, 96, 0};
  world.Ask(ReserveOf(worker, {item}));
  for (const CreateObject& create : world.Open<CreateObject>()) {
    world.AnswerOpen(0, ObjectReady{create.object.id, {Code::kResourceExhausted, "no pages", {}}});
  }
  EXPECT_FALSE(std::get<ReserveReply>(world.ReplyTo(world.last_call())->body).results[0].outcome.ok());
  EXPECT_TRUE(world.Must<ReserveReply>(ReserveOf(worker, {item})).results[0].outcome.ok());
}

TEST(Truncate, FreesWhatIsBeyondAndAppendsInPlaceAfterwards) {
  World world(SmallConfig());
  const World::Worker worker = WithSequence(world);
  world.Must<ReserveReply>(ReserveOf(worker, 1, 70));
  world.Must<ReserveReply>(ReserveOf(worker, 1, 70, 60));
  EXPECT_THAT(world.Ask(TruncateOf(worker, 1, 71)), Refused(Code::kInvalidArgument, "tokens is 71"));
  EXPECT_THAT(world.Ask(TruncateOf(worker, 1, -1)), Refused(Code::kInvalidArgument, "tokens is -1"));
  EXPECT_THAT(world.Ask(TruncateOf(worker, 9, 1)), Refused(Code::kNotFound, "sequence 9"));
  const TruncateReply reply = world.Must<TruncateReply>(TruncateOf(worker, 1, 33, 7));
  EXPECT_EQ(reply.tokens, 33);
  EXPECT_EQ(reply.reserved_tokens, 33);
  EXPECT_EQ(reply.version, 2u);
  EXPECT_EQ(world.core.ledger().used, 6 * 256u);
  EXPECT_EQ(world.Must<TruncateReply>(TruncateOf(worker, 1, 33, 7)).version, 2u);  // a repetition
  EXPECT_EQ(world.Must<TruncateReply>(TruncateOf(worker, 1, 33)).version, 2u);     // nothing to forget
  EXPECT_EQ(Rows(world, ReserveOf(worker, 1, 49, 33)).at(0).from, 3u);
  // Room that was never written is given up too.
  EXPECT_EQ(world.Must<TruncateReply>(TruncateOf(worker, 1, 33)).version, 3u);
  EXPECT_EQ(world.core.ledger().used, 6 * 256u);
}

TEST(Truncate, KeepsSpeculatedTokensThatWereNeverSaidToBeWritten) {
  World world(SmallConfig());
  const World::Worker worker = WithSequence(world);
  world.Must<ReserveReply>(ReserveOf(worker, 1, 32));
  world.Must<ReserveReply>(ReserveOf(worker, 1, 48, 30));
  EXPECT_EQ(world.Must<TruncateReply>(TruncateOf(worker, 1, 33)).tokens, 33);
  EXPECT_THAT(world.Must<ReserveReply>(ReserveOf(worker, 1, 48, 32)).results[0].outcome,
              RefusedWith(Code::kInvalidArgument, "written_tokens"));
  // Up to all that is reserved: nothing to free, yet all of it counts as written.
  world.Must<ReserveReply>(ReserveOf(worker, 1, 48, 33));
  EXPECT_EQ(world.Must<TruncateReply>(TruncateOf(worker, 1, 48)).reserved_tokens, 48);
  world.Must<ReserveReply>(ReserveOf(worker, 1, 48, 48));
}

TEST(Truncate, ForgetsNormsBeyondIt) {
  World world(SmallConfig());
  const World::Worker worker = WithSequence(world);
  world.Must<ReserveReply>(ReserveOf(worker, 1, 40));
  EvictPlanned planned = PlanOf(1, {});
  planned.no_op = true;
  world.Ask(EvictOf(worker, 1, 40));
  world.AnswerOpen(0, planned);
  world.FinishAll();
  world.Must<TruncateReply>(TruncateOf(worker, 1, 10));
  world.Must<ReserveReply>(ReserveOf(worker, 1, 30, 10));
  world.Ask(EvictOf(worker, 1, 30));
  EXPECT_EQ(world.Open<RunEvict>().at(0).units[1].normed, 10);
}

}  // namespace
}  // namespace kvsteward::core
