#include "service/memory/memory.h"

#include <gtest/gtest.h>

#include <vector>

#include "service/memory/host_backend.h"
#include "tests/memory/inbox.h"
#include "tests/memory/process.h"

namespace kvsteward::memory {
namespace {

using core::ObjectKind;

core::CreateObject Create(core::LeaseId lease, core::ObjectId id, ObjectKind kind, uint32_t index, uint64_t bytes) {
  const engine::Geometry geometry{.layers = 1, .query_heads = 1, .kv_heads = 1, .head_dim = 64};  // blocks of 4 KiB
  return {.lease = lease,
          .object = {.id = id, .kind = kind, .index = index, .bytes = bytes, .private_bytes = 0},
          .shape = {},
          .spec = std::make_shared<core::LeaseSpec>(core::LeaseSpec{.geometry = geometry})};
}

class MemoryTest : public testing::Test {
 protected:
  MemoryTest() { memory_.Start(inbox_.Putter()); }
  EventInbox inbox_;
  Memory memory_{NewHostBackend(), 64 << 20};
};

TEST_F(MemoryTest, ObjectsComeInOrderAndGoWithTheirPool) {
  const int before = OpenDescriptors();
  EXPECT_EQ(memory_.export_method(), "memfd");
  EXPECT_EQ(memory_.Find(1), nullptr);
  memory_.Create(Create(1, 10, ObjectKind::kStatistics, 0, 4096));
  memory_.Create(Create(1, 11, ObjectKind::kExtent, 0, 1 << 20));
  memory_.Create(Create(2, 12, ObjectKind::kTables, 0, 4096));
  std::vector<core::Event> events = inbox_.Wait(3);
  for (size_t i = 0; i < 3; ++i) {
    const auto& ready = std::get<core::ObjectReady>(events[i]);
    EXPECT_EQ(ready.object, 10 + i);
    EXPECT_TRUE(ready.outcome.ok()) << ready.outcome.message;
  }
  ASSERT_NE(memory_.Find(1), nullptr);
  EXPECT_EQ(memory_.Find(1)->Bytes(ObjectKind::kExtent, 0).size(), 1u << 20);
  EXPECT_TRUE(memory_.Find(1)->Bytes(ObjectKind::kTables, 0).empty());
  EXPECT_EQ(memory_.Find(2)->Bytes(ObjectKind::kTables, 0).size(), 4096u);

  memory_.Destroy({.lease = 1, .object = 11});
  memory_.Destroy({.lease = 1, .object = 10});
  events = inbox_.Wait(2);
  EXPECT_EQ(std::get<core::ObjectDestroyed>(events[0]).object, 11u);
  EXPECT_EQ(std::get<core::ObjectDestroyed>(events[1]).object, 10u);
  EXPECT_EQ(memory_.Find(1), nullptr);
  EXPECT_NE(memory_.Find(2), nullptr);
  memory_.Destroy({.lease = 2, .object = 12});
  inbox_.Wait(1);
  EXPECT_EQ(OpenDescriptors(), before);
}

TEST_F(MemoryTest, WhatTheMachineLacksIsSaidAndLeavesNoPool) {
  memory_.Create(Create(1, 10, ObjectKind::kPlans, 0, uint64_t{1} << 50));
  const core::Event event = inbox_.Wait(1)[0];
  EXPECT_EQ(std::get<core::ObjectReady>(event).object, 10u);
  EXPECT_EQ(std::get<core::ObjectReady>(event).outcome.code, core::Code::kResourceExhausted);
  EXPECT_NE(std::get<core::ObjectReady>(event).outcome.message.find("1125899906842624"), std::string::npos);
  EXPECT_EQ(memory_.Find(1), nullptr);
}

TEST_F(MemoryTest, StopsTwiceAndThenSaysNothingMore) {
  memory_.Stop();
  memory_.Stop();
  memory_.Create(Create(1, 10, ObjectKind::kPlans, 0, 4096));
  EXPECT_EQ(memory_.Find(1), nullptr);
}

}  // namespace
}  // namespace kvsteward::memory
