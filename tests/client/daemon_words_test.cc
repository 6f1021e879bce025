// Ready and done words of the client, through the real daemon.
#include <csignal>
#include <future>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvsteward/client.h"
#include "tests/client/daemon_fixture.h"
#include "tests/client/tokens.h"

namespace kvsteward {
namespace {

using testing::Tokens;

class DaemonWordsTest : public DaemonTest {
 protected:
  DaemonWordsTest() : client_(Attach(Options(daemon_))) {}

  static uint32_t Load(const uint32_t* word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
  static void Store(uint32_t* word, uint32_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }
  void AwaitRunning() const {
    daemon_.Await([](const v1::GetStatusResponse& s) { return s.leases(0).running_evictions() == 1; });
  }

  std::unique_ptr<Client> client_;
};

TEST_F(DaemonWordsTest, CallsWaitAndGiveBack) {
  ASSERT_NE(client_, nullptr);
  EXPECT_EQ(client_->ReadyWord(KVS_WORDS), nullptr);
  EXPECT_EQ(client_->DoneWord(KVS_WORDS), nullptr);
  auto sequence = client_->CreateSequence(1, 500);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  ASSERT_TRUE(sequence->Reserve(200).ok());
  Tokens tokens(*sequence, kGeometry, 1);
  tokens.WriteUpTo(200);
  const std::set<uint32_t> before = tokens.Blocks();
  EvictOptions options = Budget("snapkv", 40);
  options.ready = {.slot = 255, .value = 3};
  options.done = {.slot = 255, .value = 8};
  auto call = std::async(std::launch::async, [&] { return sequence->Evict(options); });
  AwaitRunning();
  EXPECT_EQ(Load(client_->DoneWord(255)), 0u);
  // What the call reads may be written after it was made.
  testing::FillWindow(client_->WindowSlot(1), kGeometry, kRows);
  Store(client_->ReadyWord(255), 3);
  const auto evicted = call.get();
  ASSERT_TRUE(evicted.ok()) << evicted.status();
  EXPECT_EQ(Load(client_->DoneWord(255)), 8u);
  tokens.Evicted(*evicted, before, kBlockBytes);
  tokens.Check();

  ASSERT_TRUE(sequence->Reserve(208).ok());
  ASSERT_TRUE(sequence->Wrote(208).ok());
  ObserveOptions rows;
  rows.policy = "h2o";
  rows.window = {.rows = kRows, .slot = 1};
  rows.ready = {.slot = 255, .value = 2};
  rows.done = {.slot = 0, .value = 9};
  EXPECT_EQ(sequence->Observe(rows).status().code(), absl::StatusCode::kAborted) << "earlier rows were skipped";
  EXPECT_EQ(Load(client_->DoneWord(0)), 9u);

  options.ready = Word{.slot = KVS_WORDS, .value = 0};
  options.done = Word{.slot = 1, .value = 1};
  EXPECT_EQ(sequence->Evict(options).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Load(client_->DoneWord(1)), 0u) << "a malformed call does nothing";
}

// The words outlive the daemon, so that whoever waits for one can be freed.
TEST_F(DaemonWordsTest, TheDaemonsDeathEndsTheCallAndLeavesTheWords) {
  ASSERT_NE(client_, nullptr);
  auto sequence = client_->CreateSequence(1, 500);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  ASSERT_TRUE(sequence->Reserve(200).ok());
  Tokens tokens(*sequence, kGeometry, 1);
  tokens.WriteUpTo(200);
  EvictOptions options = Budget("streaming-llm", 40);
  options.ready = {.slot = 0, .value = 1};
  options.done = {.slot = 0, .value = 1};
  auto call = std::async(std::launch::async, [&] { return sequence->Evict(options); });
  AwaitRunning();
  uint32_t* const done = client_->DoneWord(0);
  std::thread stream([done] {
    while (kvs_word_reached(Load(done), 1) == 0) std::this_thread::yield();
  });
  daemon_.End(SIGKILL);
  EXPECT_EQ(call.get().status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Load(done), 0u);
  tokens.Check();
  Store(done, 1);
  stream.join();
}

}  // namespace
}  // namespace kvsteward
