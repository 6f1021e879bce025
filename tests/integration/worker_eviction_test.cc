// The worker over a real sidecar: that it reads keys and values from the sidecar's memory and from nowhere else, and
// that an eviction keeps exactly the tokens of its plan and returns exactly the blocks that become free.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/run.h"
#include "client/worker/decoder.h"
#include "client/worker/host_attention.h"
#include "client/worker/model.h"
#include "client/worker/session.h"
#include "client/worker/task.h"
#include "kvsteward/client.h"
#include "tests/client/daemon.h"
#include "tests/integration/plain_cache.h"

namespace kvsteward::worker {
namespace {

constexpr uint32_t kMaxTokens = 1200;
constexpr uint32_t kTenthPpm = 100'000;
constexpr uint32_t kQuarterPpm = 250'000;

class WorkerEvictionTest : public ::testing::Test {
 protected:
  WorkerEvictionTest()
      : model_(LoadModel(KVSTEWARD_MODEL).value()), attention_(model_.config), decoder_(model_, attention_) {
    const Task task = ParseTask(model_.task, model_.config.vocab).value();
    prompt_ = MakePrompt(task, PromptKind::kAware, 1000).tokens;
    ClientOptions options;
    options.address = daemon_.address();
    options.fd_socket = daemon_.fd_socket("red");
    options.geometry = GeometryOf(model_.config);
    options.window_rows = kWindowRows;
    options.window_slots = 2;
    options.plan_bytes = 1 << 20;
    client_ = Client::Attach(options).value();
  }

  std::unique_ptr<Session> Prefilled(uint64_t id) {
    auto session = Session::Start(*client_, decoder_, {id, kMaxTokens, static_cast<uint32_t>(id % 2)}).value();
    EXPECT_TRUE(session->Prefill(prompt_).ok());
    return session;
  }
  uint32_t units() const { return model_.config.units(); }

  // Every block of the session, unit by unit.
  std::vector<uint32_t> Blocks(Session& session) const {
    std::vector<uint32_t> blocks;
    for (uint32_t unit = 0; unit < units(); ++unit) {
      const std::span<const uint32_t> row = session.cache().sequence().Row(unit);
      blocks.insert(blocks.end(), row.begin(), row.end());
    }
    return blocks;
  }
  std::span<float> Floats(Session& session, uint32_t block) const {
    return {reinterpret_cast<float*>(session.cache().sequence().Block(block)), client_->block_bytes() / sizeof(float)};
  }
  // The prompt's last token decoded again; the call may be repeated and gives the same.
  static std::vector<float> LastLogits(Session& session) {
    const auto logits = session.DecodeLastAgain();
    EXPECT_TRUE(logits.ok()) << logits.status();
    return {logits->begin(), logits->end()};
  }

  testing::Daemon daemon_;
  Model model_;
  HostAttention attention_;
  Decoder decoder_;
  std::vector<uint32_t> prompt_;
  std::unique_ptr<Client> client_;
};

TEST_F(WorkerEvictionTest, ReadsKeptBlocksAndNoFreedOne) {
  const auto session = Prefilled(1);
  const std::vector<uint32_t> before = Blocks(*session);
  const auto evicted = session->Evict("ahakv-ada", kQuarterPpm, false);
  ASSERT_TRUE(evicted.ok()) << evicted.status();
  const std::vector<float> logits = LastLogits(*session);
  const std::vector<uint32_t> after = Blocks(*session);

  std::set<uint32_t> others(before.begin(), before.end());
  for (const uint32_t block : after) others.erase(block);
  ASSERT_FALSE(others.empty());
  for (const uint32_t block : others) std::ranges::fill(Floats(*session, block), NAN);
  EXPECT_EQ(LastLogits(*session), logits);

  for (uint32_t unit = 0; unit < units(); ++unit) {
    const uint32_t residents = session->cache().Residents(unit);
    for (uint32_t index = 0; index < BlocksFor(residents - 1); ++index) {  // the last token is written anew
      const std::span<float> block = Floats(*session, session->cache().sequence().Row(unit)[index]);
      const std::vector<float> kept(block.begin(), block.end());
      std::ranges::fill(block, NAN);
      EXPECT_NE(LastLogits(*session), logits) << "unit " << unit << ", block " << index;
      std::ranges::copy(kept, block.begin());
    }
  }
  EXPECT_EQ(LastLogits(*session), logits);
}

TEST_F(WorkerEvictionTest, DecodesOnWhileFreedBlocksHoldAnything) {
  // Twice the same tokens; once with every block that is nobody's overwritten after every eviction.
  std::vector<float> logits[2];
  for (const bool overwrite : {false, true}) {
    const auto session = Prefilled(1);
    std::set<uint32_t> seen;
    const auto overwrite_others = [&] {
      const std::vector<uint32_t> now = Blocks(*session);
      seen.insert(now.begin(), now.end());
      std::set<uint32_t> others = seen;
      for (const uint32_t block : now) others.erase(block);
      for (const uint32_t block : others) std::ranges::fill(Floats(*session, block), overwrite ? NAN : 0.0F);
    };
    overwrite_others();  // only notes the blocks of the prompt
    ASSERT_TRUE(session->Evict("ahakv-ada", kTenthPpm, false).ok());
    overwrite_others();
    uint32_t evictions = 0;
    for (uint32_t i = 0; i < 60; ++i) {
      const auto next = session->Feed(std::span(prompt_).subspan(i, 1));
      ASSERT_TRUE(next.ok()) << next.status();
      logits[overwrite ? 1 : 0].insert(logits[overwrite ? 1 : 0].end(), next->begin(), next->end());
      const auto due = session->EvictIfDue();
      ASSERT_TRUE(due.ok()) << due.status();
      if (!*due) continue;
      ++evictions;
      overwrite_others();
    }
    EXPECT_EQ(evictions, 60u / kBlockTokens);
    ASSERT_TRUE(session->Release().ok());
  }
  EXPECT_EQ(logits[0], logits[1]);
}

TEST_F(WorkerEvictionTest, KeepsExactlyTheTokensOfThePlan) {
  for (const char* policy : {"streaming-llm", "snapkv", "ada-snapkv", "ahakv", "ahakv-ada"}) {
    const auto session = Prefilled(1);
    const auto evicted = session->Evict(policy, kTenthPpm, true);
    ASSERT_TRUE(evicted.ok()) << policy << ": " << evicted.status();
    ASSERT_NE(evicted->plan, nullptr);

    // The same prompt in the test's own memory, without the tokens that the plan drops.
    PlainCache plain(model_.config, 2048);
    for (uint32_t at = 0; at < prompt_.size(); at += Decoder::kMaxTokens) {
      ASSERT_TRUE(decoder_.Append(plain, std::span(prompt_).subspan(at, Decoder::kMaxTokens), at, nullptr).ok());
      plain.Wrote(Decoder::kMaxTokens);
    }
    const auto* bytes = reinterpret_cast<const std::byte*>(evicted->plan);
    const auto* plans = reinterpret_cast<const kvs_unit_plan*>(bytes + sizeof(kvs_plan));
    for (uint32_t unit = 0; unit < units(); ++unit) {
      const auto* mask = reinterpret_cast<const uint64_t*>(bytes + plans[unit].mask_offset);
      for (uint32_t j = plans[unit].residents; j-- > 0;) {
        if ((mask[j / 64] >> (j % 64) & 1) == 0) plain.Drop(unit, j, 1);
      }
      ASSERT_EQ(plain.Residents(unit), session->cache().Residents(unit)) << policy;
    }

    std::vector<float> logits = LastLogits(*session);
    auto expected = decoder_.ReplaceLast(plain, prompt_.back(), 1023, nullptr).value();
    EXPECT_EQ(logits, std::vector(expected.begin(), expected.end())) << policy;
    for (uint32_t i = 0; i < 20; ++i) {
      const auto next = session->Feed(std::span(prompt_).subspan(i, 1));
      ASSERT_TRUE(next.ok()) << next.status();
      logits.assign(next->begin(), next->end());
      expected = decoder_.Append(plain, std::span(prompt_).subspan(i, 1), 1024 + i, nullptr).value();
      plain.Wrote(1);
      ASSERT_EQ(logits, std::vector(expected.begin(), expected.end())) << policy << ", token " << i;
    }
    ASSERT_TRUE(session->Release().ok());
  }
}

TEST_F(WorkerEvictionTest, ReturnsExactlyTheBlocksThatBecomeFree) {
  for (const uint32_t ppm : {500'000u, kQuarterPpm, kTenthPpm, 33'333u + 5'000u}) {
    for (const char* policy : {"ahakv", "ahakv-ada", "ada-snapkv"}) {
      const auto session = Prefilled(1);
      const size_t blocks_before = Blocks(*session).size();
      const auto evicted = session->Evict(policy, ppm, false);
      ASSERT_TRUE(evicted.ok()) << evicted.status();
      uint64_t freed = 0;
      uint64_t kept = 0;
      for (uint32_t unit = 0; unit < units(); ++unit) {
        EXPECT_EQ(evicted->lengths[unit], 1024u);
        EXPECT_EQ(session->cache().Residents(unit), evicted->kept[unit]);
        EXPECT_EQ(session->cache().sequence().Row(unit).size(), BlocksFor(evicted->kept[unit]));
        freed += 64 - BlocksFor(evicted->kept[unit]);
        kept += evicted->kept[unit];
      }
      EXPECT_EQ(evicted->budget_tokens, 1024ull * ppm / 1'000'000);
      EXPECT_EQ(kept, uint64_t{units()} * evicted->budget_tokens);
      EXPECT_EQ(evicted->blocks_freed, freed);
      EXPECT_EQ(blocks_before - Blocks(*session).size(), freed);
      EXPECT_EQ(evicted->bytes_returned, freed * client_->block_bytes());
      ASSERT_TRUE(session->Release().ok());
    }
  }
}

TEST_F(WorkerEvictionTest, EvictsAgainWhenAUnitHasABlockMore) {
  const auto session = Prefilled(1);
  const auto evicted = session->Evict("ahakv-ada", kTenthPpm, false);
  ASSERT_TRUE(evicted.ok()) << evicted.status();
  for (uint32_t i = 1; i <= 50; ++i) {
    ASSERT_TRUE(session->Feed(std::span(prompt_).subspan(i, 1)).ok());
    const auto due = session->EvictIfDue();
    ASSERT_TRUE(due.ok()) << due.status();
    EXPECT_EQ(*due, i % kBlockTokens == 0) << i;
    uint64_t residents = 0;
    for (uint32_t unit = 0; unit < units(); ++unit) residents += session->cache().Residents(unit);
    EXPECT_EQ(residents, uint64_t{units()} * (evicted->budget_tokens + i % kBlockTokens));
  }
}

TEST_F(WorkerEvictionTest, RunsSessionsSideBySide) {
  const auto first = Prefilled(1);
  const std::vector<float> whole = LastLogits(*first);
  const auto second = Prefilled(2);
  EXPECT_EQ(LastLogits(*second), whole);
  ASSERT_TRUE(second->Evict("streaming-llm", kTenthPpm, false).ok());
  EXPECT_NE(LastLogits(*second), whole);
  EXPECT_EQ(LastLogits(*first), whole);
}

TEST_F(WorkerEvictionTest, SaysWhatIsWrong) {
  const auto session = Prefilled(1);
  EXPECT_EQ(session->Evict("no-such-policy", kTenthPpm, false).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(session->Evict("ahakv-ada", kTenthPpm, false).ok());
  EXPECT_EQ(Session::Start(*client_, decoder_, {2, model_.config.max_positions + 1, 1}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace kvsteward::worker
