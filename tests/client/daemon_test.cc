// The client against the real daemon.
#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvsteward/client.h"
#include "tests/client/daemon_fixture.h"
#include "tests/client/tokens.h"

namespace kvsteward {
namespace {

using ::testing::HasSubstr;
using testing::Tokens;

TEST_F(DaemonTest, AttachesAndLeaves) {
  const v1::GetStatusResponse before = daemon_.Status();
  auto client = Attach(Options(daemon_));
  ASSERT_NE(client, nullptr);
  EXPECT_EQ(client->block_bytes(), kBlockBytes);
  EXPECT_EQ(client->backend(), "host");
  v1::GetStatusResponse status = daemon_.Status();
  ASSERT_EQ(status.leases_size(), 1);
  EXPECT_EQ(status.leases(0).name(), client->lease_name());
  EXPECT_EQ(status.leases(0).tenant(), "red");
  EXPECT_EQ(status.leases(0).state(), v1::LeaseStatus::STATE_LIVE);
  client.reset();
  status = daemon_.Await([](const v1::GetStatusResponse& s) { return s.leases_size() == 0; });
  EXPECT_EQ(status.ledger().SerializeAsString(), before.ledger().SerializeAsString());
  EXPECT_EQ(daemon_.MemoryObjects(), 0u);
}

TEST_F(DaemonTest, TakesTokensBack) {
  auto client = Attach(Options(daemon_));
  auto sequence = client->CreateSequence(1, 500);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  testing::FillWindow(client->WindowSlot(1), kGeometry, kRows);
  Tokens tokens(*sequence, kGeometry, 1);
  ASSERT_TRUE(sequence->Reserve(200).ok());
  tokens.WriteUpTo(200);
  const std::set<uint32_t> before = tokens.Blocks();
  auto evicted = sequence->Evict(Budget("", 60));
  ASSERT_TRUE(evicted.ok()) << evicted.status();
  tokens.Evicted(*evicted, before, kBlockBytes);
  ASSERT_TRUE(sequence->Reserve(260).ok());
  tokens.WriteUpTo(255);
  tokens.Check();
  ASSERT_TRUE(sequence->Truncate(210).ok());
  tokens.Truncated(210);
  EXPECT_EQ(sequence->written(), 210u);
  EXPECT_EQ(sequence->reserved(), 210u);
  tokens.Check();
  EXPECT_EQ(sequence->Key(0, sequence->Residents(0)), nullptr);
  EXPECT_EQ(sequence->Truncate(150).code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(sequence->Reserve(240).ok());
  tokens.WriteUpTo(240);
  tokens.Check();
}

TEST_F(DaemonTest, StartsWithResidents) {
  auto client = Attach(Options(daemon_));
  InitialResidents residents;
  residents.seen_tokens = 100;
  residents.lengths = {3, 0, 40, 100};
  for (const int32_t position : {5, 50, 99}) residents.positions.push_back(position);
  for (int32_t i = 0; i < 40; ++i) residents.positions.push_back(2 * i);
  for (int32_t i = 0; i < 100; ++i) residents.positions.push_back(i);
  auto sequence = client->CreateSequence(1, 200, residents);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  EXPECT_EQ(sequence->written(), 100u);
  for (uint32_t unit = 0; unit < 4; ++unit) EXPECT_EQ(sequence->Residents(unit), residents.lengths[unit]);
  EXPECT_EQ(sequence->Row(0).size(), 1u);
  EXPECT_EQ(sequence->Row(1).size(), 0u);
  EXPECT_EQ(sequence->Row(3).size(), 7u);
  // Positions count, not places: the sinks of this policy are positions 0 to 3.
  auto evicted = sequence->Evict(Budget("streaming-llm", 10));
  ASSERT_TRUE(evicted.ok()) << evicted.status();
  const auto* indices = reinterpret_cast<const uint32_t*>(reinterpret_cast<const std::byte*>(evicted->plan) +
                                                          kvs_unit_plan_of(evicted->plan, 2)->indices_offset);
  EXPECT_EQ(indices[0], 0u);
  EXPECT_EQ(indices[1], 1u);  // position 2
  EXPECT_GT(indices[2], 1u);
}

TEST_F(DaemonTest, RefusesWithASentence) {
  auto client = Attach(Options(daemon_));
  auto sequence = client->CreateSequence(1, 1u << 20);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  const absl::Status full = sequence->Reserve(1u << 20);
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted) << full;
  const std::optional<Shortage> shortage = ShortageOf(full);
  ASSERT_TRUE(shortage);
  EXPECT_EQ(shortage->needed_bytes, (1u << 20) / 16 * kGeometry.units() * kBlockBytes);
  EXPECT_LT(shortage->free_bytes, 128u << 20);
  EXPECT_EQ(sequence->reserved(), 0u);
  EXPECT_EQ(client->CreateSequence(1, 7).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(client->CreateSequence(0, 7).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(sequence->Evict(Budget("no-such-policy", 5)).status().code(), absl::StatusCode::kInvalidArgument);
  ClientOptions odd = Options(daemon_);
  odd.geometry.query_heads = 3;
  EXPECT_EQ(Client::Attach(odd).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(DaemonTest, ManySequencesInOneCall) {
  auto client = Attach(Options(daemon_));
  std::vector<Sequence> sequences;
  std::vector<Sequence*> pointers;
  for (uint64_t id = 1; id <= 50; ++id) {
    auto sequence = client->CreateSequence(id, 64);
    ASSERT_TRUE(sequence.ok()) << sequence.status();
    sequences.push_back(*std::move(sequence));
  }
  for (Sequence& sequence : sequences) pointers.push_back(&sequence);
  std::vector<uint32_t> totals(50, 33);
  totals[7] = 65;  // more than its max_tokens
  auto statuses = client->Reserve(pointers, totals);
  ASSERT_TRUE(statuses.ok()) << statuses.status();
  for (size_t i = 0; i < 50; ++i) {
    EXPECT_EQ((*statuses)[i].ok(), i != 7) << (*statuses)[i];
    EXPECT_EQ(sequences[i].reserved(), i == 7 ? 0u : 33u);
  }
}

// Clients of two tenants, some of them in threads of one process, each with its own tokens.
TEST_F(DaemonTest, ManyClientsAtOnce) {
  const v1::Ledger before = daemon_.Status().ledger();
  const auto work = [&](const std::string& tenant, uint32_t seed) {
    auto client = Attach(Options(daemon_, tenant));
    ASSERT_NE(client, nullptr);
    testing::FillWindow(client->WindowSlot(1), kGeometry, kRows);
    for (uint64_t id = 1; id <= 3; ++id) {
      auto sequence = client->CreateSequence(id, 2000);
      ASSERT_TRUE(sequence.ok()) << sequence.status();
      Tokens tokens(*sequence, kGeometry, seed * 10 + static_cast<uint32_t>(id));
      for (uint32_t seen = 150; seen <= 900; seen += 150) {
        ASSERT_TRUE(sequence->Reserve(seen).ok());
        tokens.WriteUpTo(seen);
        const std::set<uint32_t> blocks = tokens.Blocks();
        auto evicted = sequence->Evict(Budget("", 100));
        ASSERT_TRUE(evicted.ok()) << evicted.status();
        tokens.Evicted(*evicted, blocks, kBlockBytes);
        tokens.Check();
      }
    }
  };
  std::vector<std::thread> workers;
  for (uint32_t i = 0; i < 6; ++i) workers.emplace_back(work, i % 2 == 0 ? "red" : "blue", i);
  for (std::thread& worker : workers) worker.join();
  const v1::GetStatusResponse status =
      daemon_.Await([](const v1::GetStatusResponse& s) { return s.leases_size() == 0; });
  EXPECT_EQ(status.ledger().SerializeAsString(), before.SerializeAsString());
}

TEST_F(DaemonTest, DiesAndComesBack) {
  auto client = Attach(Options(daemon_));
  auto sequence = client->CreateSequence(1, 500);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  testing::FillWindow(client->WindowSlot(1), kGeometry, kRows);
  auto tokens = std::make_unique<Tokens>(*sequence, kGeometry, 1);
  ASSERT_TRUE(sequence->Reserve(200).ok());
  tokens->WriteUpTo(200);
  const std::set<uint32_t> before = tokens->Blocks();
  auto evicted = sequence->Evict(Budget("", 60));
  ASSERT_TRUE(evicted.ok()) << evicted.status();
  tokens->Evicted(*evicted, before, kBlockBytes);
  const std::string old_name = client->lease_name();

  daemon_.End(SIGKILL);
  const absl::Status gone = sequence->Reserve(300);
  EXPECT_EQ(gone.code(), absl::StatusCode::kUnavailable) << gone;
  EXPECT_THAT(std::string(gone.message()), HasSubstr("call Reattach()"));
  EXPECT_EQ(sequence->Evict(Budget("", 5)).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(client->CreateSequence(2, 5).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(client->Reattach().code(), absl::StatusCode::kUnavailable);
  tokens->Check();

  daemon_.Start();
  const absl::Status reattached = client->Reattach();
  ASSERT_TRUE(reattached.ok()) << reattached;
  tokens->Check();
  const absl::Status refused = sequence->Truncate(100);
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("gone with the sidecar's books"));
  auto fresh = client->CreateSequence(1, 500);
  ASSERT_TRUE(fresh.ok()) << fresh.status();
  Tokens fresh_tokens(*fresh, kGeometry, 2);
  ASSERT_TRUE(fresh->Reserve(100).ok());
  fresh_tokens.WriteUpTo(100);
  fresh_tokens.Check();
  tokens->Check();
  EXPECT_EQ(daemon_.Status().leases_size(), 1);
}

// P4: killed at any instruction, the daemon leaves every unit entirely old or entirely new.
TEST_F(DaemonTest, DiesWhileItEvicts) {
  ClientOptions options = Options(daemon_);
  options.geometry = {.layers = 8, .query_heads = 8, .kv_heads = 4, .head_dim = 64, .dtype = ElementType::kF32};
  auto client = Attach(options);
  ASSERT_NE(client, nullptr);
  for (const uint32_t when : {0u, 1u, 2u, 5u, 10u, 16u, 24u, 31u, 32u}) {
    auto sequence = client->CreateSequence(1, 1000);
    ASSERT_TRUE(sequence.ok()) << sequence.status();
    testing::FillWindow(client->WindowSlot(1), options.geometry, kRows);
    Tokens tokens(*sequence, options.geometry, 1);
    ASSERT_TRUE(sequence->Reserve(1000).ok());
    tokens.WriteUpTo(1000);
    std::atomic<bool> replied{false};
    std::thread kill([&] {  // as soon as `when` units have changed
      const auto changed = [&] {
        uint32_t units = 0;
        for (uint32_t unit = 0; unit < 32; ++unit) units += sequence->Residents(unit) != 1000;
        return units;
      };
      while (!replied && changed() < when) std::this_thread::yield();
      daemon_.End(SIGKILL);
    });
    const absl::Status status = sequence->Evict(Budget("", 500)).status();
    replied = true;
    kill.join();
    const uint32_t changed = tokens.CheckOldOrNew();
    std::printf("killed at %u: %u of 32 units were evicted, and the call said %s\n", when, changed,
                absl::StatusCodeToString(status.code()).c_str());
    EXPECT_GE(changed, when);
    EXPECT_TRUE(changed == 32 || absl::IsUnavailable(status)) << status;
    daemon_.Start();
    ASSERT_TRUE(client->Reattach().ok());
    EXPECT_EQ(tokens.CheckOldOrNew(), changed);
  }
}

TEST_F(DaemonTest, Drains) {
  std::atomic<bool> draining{false};
  ClientOptions options = Options(daemon_);
  options.on_draining = [&] {
    draining = true;
    draining.notify_all();
  };
  auto client = Attach(options);
  auto sequence = client->CreateSequence(1, 500);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  const int status = daemon_.End(SIGTERM);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  draining.wait(false);
  EXPECT_EQ(sequence->Reserve(10).code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace kvsteward
