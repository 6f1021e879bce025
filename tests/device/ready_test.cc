// Jobs that wait for a ready word: nobody else does.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <string>

#include "service/device/device.h"
#include "tests/device/lease_rig.h"
#include "tests/memory/inbox.h"

namespace kvsteward::device {
namespace {

using testing::HasSubstr;

constexpr uint32_t kSlot = 3;

TEST(ReadyWord, IsReachedGoingAround) {
  struct Case {
    uint32_t word;
    uint32_t value;
    bool reached;
  };
  for (const Case& each : {Case{0, 0, true}, Case{0, 1, false}, Case{5, 5, true}, Case{6, 5, true}, Case{4, 5, false},
                           Case{~0u, 2, false}, Case{1, 2, false}, Case{2, ~0u, true}, Case{~0u, ~0u, true},
                           Case{0x80000004, 5, true}, Case{0x80000005, 5, false}}) {
    std::vector<std::byte> region(KVS_WINDOWS_OFFSET);
    *kvs_ready_word(region.data(), KVS_WORDS - 1) = each.word;
    const ReadyWord ready({.slot = KVS_WORDS - 1, .value = each.value}, region, {});
    EXPECT_EQ(ready.Reached(), each.reached) << each.word << " for " << each.value;
  }
}

class ReadyTest : public testing::Test {
 protected:
  void Start(std::chrono::milliseconds longest_wait = Device::kLongestWait) {
    device_ = std::make_unique<Device>(engine::NewHostEngine(1), longest_wait);
    device_->Start(inbox_.Putter());
  }
  // A job of this lease; it waits for the value unless that is 0.
  core::RunEvict Ask(core::JobId job, core::LeaseId lease, uint32_t value) const {
    core::RunEvict ask = rig_.Ask(job);
    ask.lease = lease;
    auto spec = std::make_shared<core::EvictSpec>(*ask.spec);
    if (value != 0) spec->ready = {.slot = kSlot, .value = value};
    ask.spec = spec;
    return ask;
  }
  void Store(uint32_t value) const {
    __atomic_store_n(kvs_ready_word(rig_.Statistics().data(), kSlot), value, __ATOMIC_RELEASE);
  }
  core::EvictPlanned Planned() { return inbox_.WaitFor<core::EvictPlanned>(); }
  void End(core::JobId job) {
    device_->EndJob(job);
    EXPECT_EQ(inbox_.WaitFor<core::JobEnded>().job, job);
  }

  EventInbox inbox_;
  LeaseRig rig_{100};
  std::unique_ptr<Device> device_;  // ends first
};

TEST_F(ReadyTest, AJobWaitsForItsValueAndOthersOvertakeIt) {
  Start();
  Store(4);
  device_->RunEvict(Ask(1, 1, 5), rig_.pool());
  for (const core::LeaseId lease : {1, 2}) {  // its own lease's, too
    device_->RunEvict(Ask(1 + lease, lease, 0), rig_.pool());
    EXPECT_EQ(Planned().job, 1 + lease);
  }
  device_->RunEvict(Ask(4, 2, 4), rig_.pool());  // it is there already
  EXPECT_EQ(Planned().job, 4u);
  Store(5);
  const core::EvictPlanned planned = Planned();
  EXPECT_EQ(planned.job, 1u);
  EXPECT_TRUE(planned.outcome.ok()) << planned.outcome.message;
  EXPECT_EQ(planned.kept, std::vector<int32_t>(4, 32));
  device_->CompactUnits(LeaseRig::Wave(1, 0, 4, 2));
  EXPECT_EQ(inbox_.WaitFor<core::UnitsCompacted>().units, 4u);
  for (const core::JobId job : {1, 2, 3, 4}) End(job);
}

TEST_F(ReadyTest, NothingIsReadBeforeTheWord) {
  Start();
  auto* const queries = reinterpret_cast<float*>(rig_.Statistics().data() + KVS_WINDOWS_OFFSET);
  const size_t count = size_t{2} * 4 * 8 * 8;
  std::fill_n(queries, count, std::numeric_limits<float>::quiet_NaN());
  core::RunEvict ask = Ask(1, 1, 5);
  auto spec = std::make_shared<core::EvictSpec>(*ask.spec);
  spec->window_rows = 8;
  ask.spec = spec;
  ask.policy = LeaseRig::Changed("snapkv", [](engine::Policy&) {});
  device_->RunEvict(ask, rig_.pool());
  device_->RunEvict(Ask(2, 2, 0), rig_.pool());
  EXPECT_EQ(Planned().job, 2u);
  std::fill_n(queries, count, 0.01f);
  Store(5);
  const core::EvictPlanned planned = Planned();
  EXPECT_TRUE(planned.outcome.ok()) << planned.outcome.message;
}

TEST_F(ReadyTest, AnObserveWaitsLikewise) {
  Start();
  core::RunEvict ask = Ask(1, 1, 5);
  auto spec = std::make_shared<core::EvictSpec>(*ask.spec);
  spec->budget = {};
  spec->window_rows = 8;
  spec->window_positions = {0, 1, 2, 3, 4, 5, 6, 7};
  ask.spec = spec;
  ask.observe = true;
  ask.policy = LeaseRig::Changed("h2o", [](engine::Policy&) {});
  device_->RunEvict(ask, rig_.pool());
  device_->RunEvict(Ask(2, 2, 0), rig_.pool());
  EXPECT_EQ(Planned().job, 2u);
  Store(5);
  EXPECT_EQ(Planned().observed_tokens, 8);
}

TEST_F(ReadyTest, TheValueComesBehindTheGreatestNumber) {
  Start();
  Store(~0u);
  device_->RunEvict(Ask(1, 1, 2), rig_.pool());
  Store(1);
  device_->RunEvict(Ask(2, 2, 0), rig_.pool());
  EXPECT_EQ(Planned().job, 2u);
  Store(3);
  EXPECT_EQ(Planned().job, 1u);
}

TEST_F(ReadyTest, AJobWhoseWordNeverComesIsRefused) {
  Start(std::chrono::milliseconds(5));
  Store(4);
  device_->RunEvict(Ask(1, 1, 5), rig_.pool());
  const core::EvictPlanned planned = Planned();
  EXPECT_EQ(planned.outcome.code, core::Code::kDeadlineExceeded);
  EXPECT_THAT(planned.outcome.message, HasSubstr("ready.value is 5 but ready word 3 is 4"));
  EXPECT_TRUE(planned.kept.empty());
  EXPECT_FALSE(planned.norms.has_value());
  End(1);
  EXPECT_EQ(rig_.Word(0), 0u);
  EXPECT_EQ(rig_.pool().use_count(), 2);  // the rig's, and this one
  Store(5);
  device_->RunEvict(Ask(1, 1, 5), rig_.pool());
  EXPECT_TRUE(Planned().outcome.ok());
}

TEST_F(ReadyTest, ACancelEndsTheWait) {
  Start();
  for (const core::JobId job : {1, 2}) device_->RunEvict(Ask(job, job, 5), rig_.pool());
  device_->CancelJob(1);
  device_->CancelJob(1);
  const core::EvictPlanned planned = Planned();
  EXPECT_EQ(planned.job, 1u);
  EXPECT_EQ(planned.outcome.code, core::Code::kCancelled);
  End(1);
  Store(5);
  EXPECT_EQ(Planned().job, 2u);
  End(2);
}

TEST_F(ReadyTest, TheEndOfAWaitingJobAnswersItFirst) {
  Start();
  device_->RunEvict(Ask(1, 1, 5), rig_.pool());
  device_->EndJob(1);
  std::vector<core::Event> answers = inbox_.Wait(1);
  if (answers.size() == 1) answers.push_back(inbox_.Wait(1)[0]);
  EXPECT_EQ(std::get<core::EvictPlanned>(answers[0]).outcome.code, core::Code::kCancelled);
  EXPECT_EQ(std::get<core::JobEnded>(answers[1]).job, 1u);
  EXPECT_EQ(rig_.pool().use_count(), 2);
}

TEST_F(ReadyTest, StopsWhileJobsWait) {
  Start();
  for (core::JobId job = 1; job < 5; ++job) device_->RunEvict(Ask(job, job, 5), rig_.pool());
  device_->Stop();
}

}  // namespace
}  // namespace kvsteward::device
