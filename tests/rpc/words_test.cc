// Ready and done words over the wire, of a worker without the client library.
#include <future>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/rpc/calls.h"
#include "tests/rpc/raw_worker.h"
#include "tests/rpc/rig.h"

namespace kvsteward::rpc {
namespace {

using ::grpc::StatusCode;
using ::testing::HasSubstr;

class WordsTest : public ::testing::Test {
 protected:
  // A live worker with sequence 1 of 20 written tokens, three to keep.
  void Start(std::chrono::milliseconds longest_wait) {
    rig_ = std::make_unique<Rig>(RigOptions{.longest_wait = longest_wait});
    worker_ = std::make_unique<RawWorker>(rig_->fd_path(), rig_->Workers());
    ASSERT_NO_FATAL_FAILURE(worker_->Start());
    ASSERT_EQ(Create(*worker_, 1, 64).code, 0u);
    ASSERT_EQ(Reserve(*worker_, Room(1, 20)).code, 0u);
  }
  static v1::EvictSequence Item(uint32_t ready, uint32_t done) {
    v1::EvictSequence item;
    item.set_sequence(1);
    item.set_written_tokens(20);
    item.set_policy("streaming-llm");
    item.set_budget_tokens(10);
    item.mutable_ready()->set_slot(255);
    item.mutable_ready()->set_value(ready);
    item.mutable_done()->set_slot(0);
    item.mutable_done()->set_value(done);
    return item;
  }
  void Store(uint32_t value) {
    __atomic_store_n(kvs_ready_word(worker_->Object(KVS_STATISTICS, 0).data(), 255), value, __ATOMIC_RELEASE);
  }
  uint32_t Done() {
    return __atomic_load_n(kvs_done_word(worker_->Object(KVS_STATISTICS, 0).data(), 0), __ATOMIC_ACQUIRE);
  }

  std::unique_ptr<Rig> rig_;
  std::unique_ptr<RawWorker> worker_;
};

TEST_F(WordsTest, AnEvictionWaitsForItsWord) {
  ASSERT_NO_FATAL_FAILURE(Start(device::Device::kLongestWait));
  v1::EvictedSequence evicted;
  auto said = std::async(std::launch::async, [&] { return Evict(*worker_, Item(7, 9), &evicted); });
  while (rig_->GetStatus().leases(0).running_evictions() == 0) std::this_thread::yield();
  EXPECT_EQ(Done(), 0u);
  Store(7);
  EXPECT_EQ(said.get().code, 0u);
  EXPECT_EQ(evicted.kept(0), 10u);
  EXPECT_EQ(Done(), 9u);
}

TEST_F(WordsTest, AWordThatNeverComesIsTheSequencesOutcome) {
  ASSERT_NO_FATAL_FAILURE(Start(std::chrono::milliseconds(5)));
  const std::string books = rig_->GetStatus().SerializeAsString();
  Store(6);
  const Said said = Evict(*worker_, Item(7, 9));
  EXPECT_EQ(said.code, static_cast<uint32_t>(StatusCode::DEADLINE_EXCEEDED));
  EXPECT_THAT(said.message, HasSubstr("ready.value is 7 but ready word 255 is 6"));
  EXPECT_EQ(Done(), 9u);
  EXPECT_EQ(rig_->GetStatus().SerializeAsString(), books);
  Store(7);
  EXPECT_EQ(Evict(*worker_, Item(7, 10)).code, 0u);
  EXPECT_EQ(Done(), 10u);
}

TEST_F(WordsTest, TheCallsOwnDeadlineEndsTheWait) {
  ASSERT_NO_FATAL_FAILURE(Start(std::chrono::hours(1)));
  v1::EvictRequest request;
  *request.mutable_lease() = worker_->lease();
  *request.add_sequences() = Item(7, 9);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(20));
  v1::EvictResponse response;
  EXPECT_EQ(worker_->stub().Evict(&context, request, &response).error_code(), StatusCode::DEADLINE_EXCEEDED);
  while (Done() != 9) std::this_thread::yield();
  v1::ReserveSequence more = Room(1, 30);
  more.set_written_tokens(20);
  EXPECT_EQ(Reserve(*worker_, more).code, 0u);  // the sequence is the worker's
}

TEST_F(WordsTest, ADeadWorkersWordIsNotAwaited) {
  ASSERT_NO_FATAL_FAILURE(Start(std::chrono::hours(1)));
  auto said = std::async(std::launch::async, [&] { return Evict(*worker_, Item(7, 9)); });
  while (rig_->GetStatus().leases(0).running_evictions() == 0) std::this_thread::yield();
  worker_->Detach();
  worker_->HangUp();
  EXPECT_EQ(said.get().code, static_cast<uint32_t>(StatusCode::UNAVAILABLE));
  rig_->AwaitNoLeases();
}

}  // namespace
}  // namespace kvsteward::rpc
