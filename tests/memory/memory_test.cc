#include "service/memory/memory.h"

#include <gtest/gtest.h>

#include <set>
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
  Memory memory_{NewHostBackend(), NewHostBackend(), 64 << 20};
};

TEST_F(MemoryTest, ObjectsComeAndGoWithTheirPool) {
  const int before = OpenDescriptors();
  EXPECT_EQ(memory_.export_method(), "memfd");
  EXPECT_EQ(memory_.Find(1), nullptr);
  memory_.Create(Create(1, 10, ObjectKind::kStatistics, 0, 4096));
  memory_.Create(Create(1, 11, ObjectKind::kExtent, 0, 1 << 20));
  memory_.Create(Create(2, 12, ObjectKind::kTables, 0, 4096));
  std::vector<core::Event> events = inbox_.Wait(3);
  std::set<core::ObjectId> ids;
  for (const core::Event& event : events) {
    const auto& ready = std::get<core::ObjectReady>(event);
    ids.insert(ready.object);
    EXPECT_TRUE(ready.outcome.ok()) << ready.outcome.message;
  }
  EXPECT_EQ(ids, (std::set<core::ObjectId>{10, 11, 12}));
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

// Memory's thread waits in the answer to a first object while the rest is asked for.
TEST(Memory, DestroysGoFirstAndLeasesTakeTurns) {
  EventInbox inbox;
  Gate entered;
  Gate gate;
  Memory memory(NewHostBackend(), NewHostBackend(), 64 << 20);
  memory.Start([&](core::Event event) {
    inbox.Put(std::move(event));
    entered.Open();
    gate.Wait();
  });
  memory.Create(Create(2, 20, ObjectKind::kTables, 0, 4096));
  entered.Wait();
  for (uint32_t i = 1; i <= 3; ++i) memory.Create(Create(2, 20 + i, ObjectKind::kTables, i, 4096));
  memory.Create(Create(1, 10, ObjectKind::kTables, 0, 4096));
  memory.Create(Create(3, 30, ObjectKind::kTables, 0, 4096));
  memory.Create(Create(3, 31, ObjectKind::kTables, 1, 4096));
  memory.Destroy({.lease = 2, .object = 20});
  gate.Open();
  const std::vector<core::Event> events = inbox.Wait(8);
  EXPECT_EQ(std::get<core::ObjectDestroyed>(events[1]).object, 20u);
  std::vector<core::ObjectId> created;
  for (size_t i = 2; i < events.size(); ++i) created.push_back(std::get<core::ObjectReady>(events[i]).object);
  EXPECT_EQ(created, (std::vector<core::ObjectId>{30, 10, 21, 31, 22, 23}));
}

TEST(Memory, DroppedCreatesFailAndMakeNothing) {
  EventInbox inbox;
  Gate entered;
  Gate gate;
  Memory memory(NewHostBackend(), NewHostBackend(), 64 << 20);
  memory.Start([&](core::Event event) {
    inbox.Put(std::move(event));
    entered.Open();
    gate.Wait();
  });
  memory.Create(Create(1, 10, ObjectKind::kTables, 0, 4096));
  entered.Wait();
  memory.Create(Create(1, 11, ObjectKind::kTables, 1, 4096));
  memory.Create(Create(2, 20, ObjectKind::kTables, 0, 4096));
  memory.Create(Create(1, 12, ObjectKind::kTables, 2, 4096));
  memory.DropCreates(1);
  memory.DropCreates(7);  // has none
  memory.Create(Create(1, 13, ObjectKind::kTables, 3, 4096));
  gate.Open();
  const std::vector<core::Event> events = inbox.Wait(5);
  for (const core::Event& event : events) {
    const auto& ready = std::get<core::ObjectReady>(event);
    const bool dropped = ready.object == 11 || ready.object == 12;
    EXPECT_EQ(ready.outcome.code, dropped ? core::Code::kUnavailable : core::Code::kOk) << ready.object;
    EXPECT_EQ(ready.outcome.message, dropped ? "the lease ended" : "");
  }
  for (uint32_t i = 0; i < 4; ++i) {
    EXPECT_EQ(memory.Find(1)->Bytes(ObjectKind::kTables, i).empty(), i == 1 || i == 2) << i;
  }
  EXPECT_NE(memory.Find(2), nullptr);
}

TEST_F(MemoryTest, StopsTwiceAndThenSaysNothingMore) {
  memory_.Stop();
  memory_.Stop();
  memory_.Create(Create(1, 10, ObjectKind::kPlans, 0, 4096));
  EXPECT_EQ(memory_.Find(1), nullptr);
}

}  // namespace
}  // namespace kvsteward::memory
