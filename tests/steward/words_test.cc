// Ready and done words from a worker's stores to the answer, and workers that misuse them.
#include <atomic>
#include <random>
#include <thread>

#include "tests/steward/steward_fixture.h"

namespace kvsteward::steward {
namespace {

class WordsTest : public StewardTest {
 protected:
  // A live worker with sequence 5 of 200 written tokens.
  void GoLive(Worker& worker) {
    worker.GoLive();
    worker.Create(5);
    worker.Reserve(5, 200, 0);
    WriteTokens(worker, 5, 0, 200);
    WriteQueries(worker);
  }
  static core::EvictAsked EvictAsked(const Worker& worker, core::WordValue ready, core::WordValue done) {
    core::EvictAsked asked = worker.EvictAsked(5, 200, 64);
    auto spec = std::make_shared<core::EvictSpec>(*asked.items[0].spec);
    spec->ready = ready;
    asked.items[0].spec = spec;
    asked.items[0].done = done;
    return asked;
  }
  static void Store(const Worker& worker, core::WordValue ready) {
    __atomic_store_n(kvs_ready_word(worker.statistics(), ready.slot), ready.value, __ATOMIC_RELEASE);
  }
  static uint32_t Done(const Worker& worker, uint32_t slot) {
    return __atomic_load_n(kvs_done_word(worker.statistics(), slot), __ATOMIC_ACQUIRE);
  }
  // Posts without waiting for the answer.
  std::shared_ptr<Inbox<Answer>> Begin(core::EvictAsked asked) {
    auto inbox = std::make_shared<Inbox<Answer>>();
    asked.call = steward_.NewCall([inbox](const core::Outcome& outcome, const core::ReplyBody& body) {
      inbox->Put({outcome, body});
    });
    steward_.Post(asked);
    return inbox;
  }
};

TEST_F(WordsTest, AnEvictionWaitsAndThenGivesTheSequenceBack) {
  Worker slow(steward_, port_, 1, "a");
  GoLive(slow);
  Worker fast(steward_, port_, 2, "b");
  GoLive(fast);
  const auto waiting = Begin(EvictAsked(slow, {255, 7}, {0, 9}));
  fast.Evict(5, 200, 64);
  EXPECT_EQ(Done(slow, 0), 0u);
  Store(slow, {255, 7});
  const Answer answer = waiting->Wait(1)[0];
  const core::EvictResult& result = std::get<core::EvictReply>(answer.body).results.at(0);
  EXPECT_TRUE(result.outcome.ok()) << result.outcome.message;
  EXPECT_EQ(Done(slow, 0), 9u);  // before the answer
  for (uint32_t u = 0; u < Worker::kUnits; ++u) {
    EXPECT_TRUE(Holds(slow, 5, u, KeptPositions(slow, result, u, Range(0, 200))));
  }
}

// A thread that waits for the done word alone finds the rows that the answer speaks of.
TEST_F(WordsTest, ADoneWordIsAsGoodAsTheAnswer) {
  Worker worker(steward_, port_, 1, "a");
  GoLive(worker);
  const auto waiting = Begin(EvictAsked(worker, {1, 0}, {255, 1}));
  while (Done(worker, 255) != 1) std::this_thread::yield();
  uint64_t kept = 0;
  for (uint32_t u = 0; u < Worker::kUnits; ++u) kept += worker.row(5, u)->row_len;
  const Answer answer = waiting->Wait(1)[0];
  uint64_t said = 0;
  for (const int32_t unit : std::get<core::EvictReply>(answer.body).results.at(0).kept) {
    said += static_cast<uint64_t>(unit);
  }
  EXPECT_EQ(kept, said);
  EXPECT_EQ(kept, 64u * Worker::kUnits);
}

TEST_F(WordsTest, ACancelledCallGivesTheSequenceBack) {
  Worker worker(steward_, port_, 1, "a");
  GoLive(worker);
  core::EvictAsked asked = EvictAsked(worker, {0, 7}, {0, 9});
  asked.call = steward_.NewCall([](const core::Outcome&, const core::ReplyBody&) {});
  steward_.Post(asked);
  steward_.CancelCall(asked.call);
  while (Done(worker, 0) != 9) std::this_thread::yield();
  worker.Evict(5, 200, 64);
}

TEST_F(WordsTest, AWorkerThatDiesWhileItsWordIsAwaitedGivesEverythingBack) {
  Worker worker(steward_, port_, 1, "a");
  GoLive(worker);
  const auto waiting = Begin(EvictAsked(worker, {0, 7}, {0, 9}));
  worker.Die();
  EXPECT_EQ(waiting->Wait(1)[0].outcome.code, core::Code::kUnavailable);
  WaitUntilAllIsFree();
}

// Whatever is in the words, others are served and the books are exact.
TEST_F(WordsTest, WordsThatAreWrittenToAtAnyTimeHarmNobody) {
  Worker hostile(steward_, port_, 1, "a");
  GoLive(hostile);
  Worker other(steward_, port_, 2, "b");
  GoLive(other);
  std::atomic<bool> stop = false;
  std::thread scribbler([&] {
    std::mt19937 random(1);
    while (!stop) {
      for (uint32_t word = 0; word < 2 * KVS_WORDS; ++word) {
        uint32_t* const at = word < KVS_WORDS ? kvs_ready_word(hostile.statistics(), word)
                                              : kvs_done_word(hostile.statistics(), word - KVS_WORDS);
        __atomic_store_n(at, static_cast<uint32_t>(random()), __ATOMIC_RELAXED);
      }
    }
  });
  for (uint32_t round = 0; round < 50; ++round) {
    core::EvictAsked asked = EvictAsked(hostile, {round, round * 0x10000001}, {round, round});
    const auto reply = MustAsk<core::EvictReply>(steward_, asked);
    EXPECT_TRUE(reply.results.at(0).outcome.ok()) << reply.results.at(0).outcome.message;
    other.Evict(5, 200, 64);
  }
  stop = true;
  scribbler.join();
}

}  // namespace
}  // namespace kvsteward::steward
