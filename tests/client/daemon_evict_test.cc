// Evictions and observations of the client through the real daemon.
#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvsteward/client.h"
#include "kvsteward/engine/policy.h"
#include "tests/client/daemon_fixture.h"
#include "tests/client/tokens.h"

namespace kvsteward {
namespace {

using testing::Tokens;

// Fills the inputs area with what the policy reads besides the window, for a sequence of so many tokens and residents.
Inputs InputsOf(const engine::Policy& policy, Client& client, uint32_t seen, uint64_t residents) {
  Inputs inputs;
  uint64_t at = 0;
  const auto floats = [&](bool reads, uint64_t count, std::optional<uint64_t>* offset) {
    if (!reads) return;
    *offset = at;
    auto* numbers = reinterpret_cast<float*>(client.InputArea().subspan(at, count * sizeof(float)).data());
    for (uint64_t i = 0; i < count; ++i) numbers[i] = static_cast<float>(i * 2654435761u % 1000) / 1000;
    at += kvs_align(count * sizeof(float));
  };
  const uint64_t heads = uint64_t{kGeometry.layers} * kGeometry.query_heads;
  floats(policy.reads_projected_norms(), residents, &inputs.projected_norms);
  floats(policy.reads_scores(), residents, &inputs.scores);
  floats(policy.reads_moments(), heads * kGeometry.head_dim, &inputs.query_mean);
  floats(policy.reads_moments(), heads * kGeometry.head_dim * kGeometry.head_dim, &inputs.query_covariance);
  if (policy.reads_classes()) {
    inputs.classes = at;
    for (uint32_t token = 0; token < seen; ++token) client.InputArea()[at + token] = std::byte(token % 5 == 0);
  }
  return inputs;
}

uint64_t BlocksOf(const std::vector<uint32_t>& lengths) {
  uint64_t blocks = 0;
  for (const uint32_t length : lengths) blocks += (length + 15) / 16;
  return blocks;
}

TEST_F(DaemonTest, EveryPresetTwice) {
  ClientOptions with_inputs = Options(daemon_);
  with_inputs.input_bytes = 1u << 20;
  auto client = Attach(with_inputs);
  ASSERT_NE(client, nullptr);
  testing::FillWindow(client->WindowSlot(1), kGeometry, kRows);
  uint64_t id = 0;
  for (const std::string& name : engine::PresetNames()) {
    SCOPED_TRACE(name);
    const engine::Policy policy = *engine::Preset(name);
    auto sequence = client->CreateSequence(++id, 1000);
    ASSERT_TRUE(sequence.ok()) << sequence.status();
    Tokens tokens(*sequence, kGeometry, static_cast<uint32_t>(id));
    uint32_t seen = 0;
    for (const uint32_t more : {300u, 111u}) {
      seen += more;
      ASSERT_TRUE(sequence->Reserve(seen + 20).ok());
      tokens.WriteUpTo(seen);
      tokens.Check();
      const std::set<uint32_t> before = tokens.Blocks();
      uint64_t residents = 0;
      for (uint32_t unit = 0; unit < kGeometry.units(); ++unit) residents += sequence->Residents(unit);
      EvictOptions options = Budget(name, 70);
      options.inputs = InputsOf(policy, *client, seen, residents);
      auto evicted = sequence->Evict(options);
      ASSERT_TRUE(evicted.ok()) << evicted.status();
      EXPECT_FALSE(evicted->no_op);
      uint64_t kept = 0;
      for (const uint32_t unit : evicted->kept) kept += unit;
      const bool by_blocks = policy.select.kind == engine::Select::Kind::kBlock;
      EXPECT_LE(kept, 70u * kGeometry.units());
      EXPECT_GE(kept, 70u * kGeometry.units() - (by_blocks ? 15 * kGeometry.layers : 0));
      tokens.Evicted(*evicted, before, kBlockBytes);
      tokens.Check();
      EXPECT_EQ(before.size() - tokens.Blocks().size(), evicted->blocks_freed);
      EXPECT_EQ(tokens.Blocks().size(), BlocksOf(evicted->kept));
      EXPECT_EQ(evicted->bytes_returned, evicted->blocks_freed * kBlockBytes);
      EXPECT_EQ(evicted->version, sequence->version());
      EXPECT_EQ(sequence->reserved(), seen);
    }
    tokens.Check();
    EXPECT_TRUE(sequence->Release().ok());
  }
  EXPECT_GT(id, 3u);
  const v1::GetStatusResponse status = daemon_.Status();
  EXPECT_EQ(status.ledger().used_bytes(), 0u);
  EXPECT_TRUE(testing::Exact(status.ledger()));
}

// Rows are observed chunk by chunk; an eviction takes those that are new, a plan alone takes none.
TEST_F(DaemonTest, ObservesRowsOnceAndInOrder) {
  auto client = Attach(Options(daemon_));
  auto sequence = client->CreateSequence(1, 500);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  testing::FillWindow(client->WindowSlot(1), kGeometry, kRows);
  Tokens tokens(*sequence, kGeometry, 1);
  ASSERT_TRUE(sequence->Reserve(300).ok());
  ObserveOptions rows;
  rows.policy = "h2o";
  rows.window = {.rows = kRows, .slot = 1};
  for (uint32_t seen = kRows; seen <= 10 * kRows; seen += kRows) {
    tokens.WriteUpTo(seen);
    const absl::StatusOr<uint32_t> observed = sequence->Observe(rows);
    ASSERT_TRUE(observed.ok()) << observed.status();
    EXPECT_EQ(*observed, seen);
  }
  EXPECT_EQ(sequence->Observe(rows).status().code(), absl::StatusCode::kAborted) << "the same rows again";
  tokens.WriteUpTo(12 * kRows);
  EXPECT_EQ(sequence->Observe(rows).status().code(), absl::StatusCode::kAborted) << "rows were skipped";
  rows.policy = "snapkv";
  EXPECT_EQ(sequence->Observe(rows).status().code(), absl::StatusCode::kInvalidArgument) << "it does not accumulate";

  // Rows up to the last are taken into account by the plan, and observed only by the eviction itself.
  EvictOptions plan = Budget("h2o", 40);
  plan.plan_only = true;
  for (int round = 0; round < 2; ++round) {
    const auto planned = sequence->Evict(plan);
    ASSERT_TRUE(planned.ok()) << planned.status();
  }
  rows.policy = "h2o";
  rows.window.positions = {80, 81, 82, 83, 84, 85, 86, 87};
  const absl::StatusOr<uint32_t> late = sequence->Observe(rows);
  ASSERT_TRUE(late.ok()) << late.status();
  EXPECT_EQ(*late, 88u);
  const auto evicted = sequence->Evict(Budget("h2o", 40));
  ASSERT_TRUE(evicted.ok()) << evicted.status();
  ASSERT_TRUE(sequence->Reserve(12 * kRows + 4).ok());
  ASSERT_TRUE(sequence->Wrote(12 * kRows + 4).ok());
  rows.window = {.rows = 4, .slot = 1};
  const absl::StatusOr<uint32_t> last = sequence->Observe(rows);
  ASSERT_TRUE(last.ok()) << last.status();
  EXPECT_EQ(*last, 12 * kRows + 4);
}

// Scores over candidates only: rows need the classes that say what is none, and the budget.
TEST_F(DaemonTest, ObservesWithInputs) {
  ClientOptions with_inputs = Options(daemon_);
  with_inputs.input_bytes = 4096;
  auto client = Attach(with_inputs);
  auto sequence = client->CreateSequence(1, 500);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  testing::FillWindow(client->WindowSlot(1), kGeometry, kRows);
  Tokens tokens(*sequence, kGeometry, 1);
  ASSERT_TRUE(sequence->Reserve(100).ok());
  tokens.WriteUpTo(kRows);
  ObserveOptions rows;
  rows.policy =
      "{name: mine, window: all, signal: {softmax: {over: candidates}}, accumulate: running, protect: {recent: 0, "
      "classes: [1]}}";
  rows.budget_tokens = 40;
  rows.window = {.rows = kRows, .slot = 1};
  const absl::Status without = sequence->Observe(rows).status();
  EXPECT_EQ(without.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(without.message().find("protect.classes reads classes"), without.message().npos) << without;
  for (uint32_t token = 0; token < kRows; ++token) client->InputArea()[64 + token] = std::byte(token % 2);
  rows.inputs.classes = 64;
  const absl::StatusOr<uint32_t> observed = sequence->Observe(rows);
  ASSERT_TRUE(observed.ok()) << observed.status();
  EXPECT_EQ(*observed, kRows);
}

TEST_F(DaemonTest, LazyEvictionsWaitForABlock) {
  auto client = Attach(Options(daemon_));
  auto sequence = client->CreateSequence(1, 500);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  testing::FillWindow(client->WindowSlot(1), kGeometry, kRows);
  Tokens tokens(*sequence, kGeometry, 1);
  EvictOptions lazy = Budget("ahakv-ada", 60);
  lazy.lazy = true;
  uint32_t evictions = 0;
  for (uint32_t seen = 60; seen <= 160; ++seen) {
    ASSERT_TRUE(sequence->Reserve(seen).ok());
    tokens.WriteUpTo(seen);
    const bool due = sequence->EvictionDue(60);
    EXPECT_EQ(due, seen >= 76 && (seen - 76) % KVS_BLOCK_TOKENS == 0) << seen;
    const std::set<uint32_t> before = tokens.Blocks();
    const auto evicted = sequence->Evict(lazy);
    ASSERT_TRUE(evicted.ok()) << evicted.status();
    EXPECT_EQ(evicted->no_op, !due) << seen;
    if (evicted->no_op) continue;
    ++evictions;
    tokens.Evicted(*evicted, before, kBlockBytes);
    tokens.Check();
  }
  EXPECT_EQ(evictions, 6u);
}

TEST_F(DaemonTest, PlanOnlyMovesNothing) {
  auto client = Attach(Options(daemon_));
  auto sequence = client->CreateSequence(1, 500);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  testing::FillWindow(client->WindowSlot(1), kGeometry, kRows);
  Tokens tokens(*sequence, kGeometry, 1);
  ASSERT_TRUE(sequence->Reserve(220).ok());
  tokens.WriteUpTo(200);
  const std::set<uint32_t> before = tokens.Blocks();
  EvictOptions options = Budget("", 50);
  options.plan_only = true;
  auto planned = sequence->Evict(options);
  ASSERT_TRUE(planned.ok()) << planned.status();
  EXPECT_EQ(planned->blocks_freed, 0u);
  EXPECT_EQ(tokens.Blocks(), before);
  EXPECT_EQ(sequence->reserved(), 220u);
  tokens.Check();
  const std::vector<uint32_t> kept = planned->kept;
  options.plan_only = false;
  options.if_version = sequence->version();
  auto evicted = sequence->Evict(options);
  ASSERT_TRUE(evicted.ok()) << evicted.status();
  EXPECT_EQ(evicted->kept, kept);
  tokens.Evicted(*evicted, before, kBlockBytes);
  tokens.Check();
  EXPECT_EQ(sequence->Evict(options).status().code(), absl::StatusCode::kAborted);  // stale by now
  options.if_version.reset();
  auto again = sequence->Evict(options);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->no_op);
  tokens.Check();
}

}  // namespace
}  // namespace kvsteward
