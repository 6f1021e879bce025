// What the shipped model and the policies achieve in the demo, by the report of a run with few prompts. The prompts are
// always the same ones, so the bounds leave room for rounding and not for chance.
#include <gtest/gtest.h>

#include <cstdint>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <tuple>

namespace kvsteward::worker {
namespace {

using nlohmann::json;

// Of models/retrieval.safetensors: 3 layers of 4 kv heads, each 16 elements of 4 bytes for K and V.
constexpr uint64_t kUnits = 12;
constexpr uint64_t kTokenBytes = 2 * 16 * 4;
constexpr uint64_t kBlockTokens = 16;
constexpr uint64_t kBlockBytes = kBlockTokens * kTokenBytes;
constexpr uint64_t kContext = 1024;
constexpr uint64_t kQuestions = 8;
// Their heads share a layer's budget; the other policies give each head the same.
const std::set<std::string> kAdaptive = {"ada-snapkv", "ahakv+ada_floor", "ahakv-ada"};

uint64_t Blocks(uint64_t tokens) { return (tokens + kBlockTokens - 1) / kBlockTokens; }

class WorkerDemoReport : public testing::Test {
 protected:
  void SetUp() override {
    report_ = json::parse(std::ifstream(KVSTEWARD_REPORT));
    for (const json& row : report_.at("rows")) {
      rows_[{row.at("kind"), row.at("policy"), row.at("budget_tokens")}] = row;
    }
  }
  double Recall(const std::string& kind, const std::string& policy, uint64_t budget) const {
    return rows_.at({kind, policy, budget}).at("recall").get<double>();
  }
  uint64_t prompts() const { return report_.at("prompts").get<uint64_t>(); }
  uint64_t answers() const { return report_.at("answers").get<uint64_t>(); }

  json report_;
  std::map<std::tuple<std::string, std::string, uint64_t>, json> rows_;
};

TEST_F(WorkerDemoReport, HasEveryRowOnce) {
  EXPECT_EQ(report_.at("context_tokens"), kContext);
  EXPECT_EQ(answers(), prompts() * kQuestions);
  std::set<std::tuple<std::string, std::string, uint64_t>> wanted;
  for (const char* kind : {"aware", "agnostic"}) {
    wanted.emplace(kind, "full", kContext);
    for (const char* policy : {"streaming-llm", "snapkv", "ada-snapkv", "ahakv", "ahakv+ada_floor", "ahakv-ada"}) {
      for (const uint64_t budget : {512, 256, 102}) wanted.emplace(kind, policy, budget);
    }
  }
  EXPECT_EQ(report_.at("rows").size(), wanted.size());
  for (const auto& row : wanted) EXPECT_TRUE(rows_.contains(row)) << testing::PrintToString(row);
}

TEST_F(WorkerDemoReport, EveryRowHasEveryKey) {
  for (const json& row : report_.at("rows")) {
    SCOPED_TRACE(row.dump());
    for (const char* key : {"budget_fraction", "recall", "recall_low", "recall_high", "agreement", "kl_nats",
                            "evict_ms_p50", "evict_ms_p99", "score_ms_p50", "decode_ms_per_token"}) {
      ASSERT_TRUE(row.contains(key)) << key;
      EXPECT_TRUE(row.at(key).is_number()) << key;
    }
    for (const char* key : {"budget_tokens", "kv_bytes_before", "kv_bytes_after", "bytes_evicted", "bytes_returned"}) {
      ASSERT_TRUE(row.contains(key)) << key;
      EXPECT_TRUE(row.at(key).is_number_unsigned()) << key;
    }
    const double recall = row.at("recall");
    EXPECT_LE(row.at("recall_low").get<double>(), recall);
    EXPECT_GE(row.at("recall_high").get<double>(), recall);
    EXPECT_GT(row.at("decode_ms_per_token").get<double>(), 0);
    EXPECT_GE(row.at("evict_ms_p99").get<double>(), row.at("evict_ms_p50").get<double>());
    EXPECT_EQ(row.at("evict_ms_p50").get<double>() > 0, row.at("policy") != "full");
  }
}

TEST_F(WorkerDemoReport, TheFullCacheAnswersAllButOneAtMost) {
  for (const char* kind : {"aware", "agnostic"}) {
    EXPECT_GE(Recall(kind, "full", kContext) * static_cast<double>(answers()), static_cast<double>(answers()) - 1.01);
    const json& row = rows_.at({kind, "full", kContext});
    EXPECT_EQ(row.at("agreement"), 1.0);
    EXPECT_EQ(row.at("kl_nats"), 0.0);
  }
}

TEST_F(WorkerDemoReport, ATenthKeptByTheQueriesKeepsTheAnswers) {
  EXPECT_LE(Recall("agnostic", "streaming-llm", 102), 0.2);
  EXPECT_GE(Recall("agnostic", "ahakv-ada", 102), 0.8);
  EXPECT_GE(Recall("aware", "ahakv-ada", 102), 0.8);
  EXPECT_GE(Recall("aware", "ahakv-ada", 512), 0.95);
}

TEST_F(WorkerDemoReport, MemoryComesBackToTheBlock) {
  for (const json& row : report_.at("rows")) {
    SCOPED_TRACE(row.dump());
    const uint64_t budget = row.at("budget_tokens");
    const uint64_t returned = row.at("bytes_returned");
    EXPECT_EQ(row.at("kv_bytes_before"), kUnits * Blocks(kContext) * kBlockBytes);
    EXPECT_EQ(row.at("kv_bytes_before").get<uint64_t>() - row.at("kv_bytes_after").get<uint64_t>(), returned);
    EXPECT_EQ(row.at("bytes_evicted"), kUnits * (kContext - budget) * kTokenBytes);
    if (!kAdaptive.contains(row.at("policy"))) {
      EXPECT_EQ(returned, kUnits * (Blocks(kContext) - Blocks(budget)) * kBlockBytes);
      continue;
    }
    // The heads' budgets differ from prompt to prompt. Every prompt returns whole blocks, and each head's last block
    // may be part empty. That it is exact by each head's budget the demo checks itself, at every eviction.
    EXPECT_EQ(returned * prompts() % kBlockBytes, 0u);  // a mean, exact for 2, 4 or 8 prompts
    const uint64_t evicted = row.at("bytes_evicted");
    EXPECT_LE(returned, evicted);
    EXPECT_LE(evicted - returned, kUnits * (kBlockTokens - 1) * kTokenBytes);
  }
}

TEST_F(WorkerDemoReport, TheSecondSequenceWasAdmittedByWhatTheFirstGaveBack) {
  const json& admission = report_.at("admission");
  EXPECT_FALSE(admission.at("refusal_while_the_first_was_whole").get<std::string>().empty());
  EXPECT_GT(admission.at("bytes_returned").get<uint64_t>(), 0u);
}

}  // namespace
}  // namespace kvsteward::worker
