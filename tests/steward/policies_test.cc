// Policies at work in the whole daemon: running scores through decoding, lazy evictions, inputs, tenants' defaults.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>

#include "tests/steward/steward_fixture.h"

namespace kvsteward::steward {
namespace {

core::PolicyRef Preset(const std::string& name) { return std::make_shared<engine::Policy>(*engine::Preset(name)); }

class PoliciesTest : public StewardTest {
 protected:
  static constexpr core::SequenceId kSequence = 5;
  using Scores = std::map<int32_t, double>;  // by position

  void SetUp() override {
    worker_.GoLive();
    worker_.Create(kSequence);
  }
  // Tokens up to `end`, and the room for them.
  void Write(int32_t end) {
    ASSERT_GE(worker_.Reserve(kSequence, end, written_).reserved_tokens, end);
    WriteTokens(worker_, kSequence, written_, end);
    for (Scores& unit : expected_) {
      for (int32_t p = written_; p < end; ++p) unit[p] = 0;
    }
    written_ = end;
  }
  static float QueryAt(uint32_t layer, uint32_t head, int32_t position, uint32_t element) {
    return 2 * KeyAt(77, layer * 4 + head, position, element);
  }
  void WriteRows(int32_t from, int32_t to) {
    float* query = worker_.queries(1);
    for (uint32_t layer = 0; layer < 2; ++layer) {
      for (uint32_t head = 0; head < 4; ++head) {
        for (int32_t row = from; row < to; ++row) {
          for (uint32_t e = 0; e < 16; ++e) *query++ = QueryAt(layer, head, row, e);
        }
      }
    }
  }
  // What the rows add to the running scores of the tokens that are there.
  void Expect(int32_t from, int32_t to) {
    for (uint32_t u = 0; u < Worker::kUnits; ++u) {
      for (int32_t row = from; row < to; ++row) {
        for (uint32_t g = 0; g < 2; ++g) {
          std::map<int32_t, double> weights;
          double sum = 0;
          for (const auto& [position, score] : expected_[u]) {
            if (position > row) break;
            double logit = 0;
            for (uint32_t e = 0; e < 16; ++e) {
              logit += double{QueryAt(u / 2, u % 2 * 2 + g, row, e)} * double{KeyAt(kSequence, u, position, e)};
            }
            sum += weights[position] = std::exp(logit / 4);
          }
          for (const auto& [position, weight] : weights) expected_[u][position] += weight / sum / 2;
        }
      }
    }
  }
  void Observe(int32_t from, int32_t to) {
    WriteRows(from, to);
    Expect(from, to);
    const core::ObserveResult result = worker_.Observe(worker_.ObserveAsked(kSequence, from, to, Preset("h2o")));
    EXPECT_TRUE(result.outcome.ok()) << result.outcome.message;
    EXPECT_EQ(result.observed_tokens, to);
  }
  core::EvictAsked Asked(int64_t budget, const std::string& policy) {
    core::EvictAsked asked = worker_.EvictAsked(kSequence, written_, budget);
    asked.items[0].policy = Preset(policy);
    return asked;
  }
  core::EvictResult Evict(const core::EvictAsked& asked) {
    auto reply = MustAsk<core::EvictReply>(steward_, asked);
    EXPECT_TRUE(reply.results.at(0).outcome.ok()) << reply.results[0].outcome.message;
    return reply.results[0];
  }
  // Evicts by h2o with these rows, and sees that scores and choice are the reference's. Forgets what went.
  void EvictAndCheck(int32_t budget, int32_t rows_from, int32_t rows_to) {
    WriteRows(rows_from, rows_to);
    core::EvictAsked asked = Asked(budget, "h2o");
    auto spec = std::make_shared<core::EvictSpec>(*asked.items[0].spec);
    spec->window_rows = rows_to - rows_from;
    for (int32_t row = rows_from; row < rows_to; ++row) spec->window_positions.push_back(row);
    asked.items[0].spec = spec;
    asked.items[0].export_scores = true;
    const core::EvictResult result = Evict(asked);
    Expect(std::max(rows_from, observed_), rows_to);
    observed_ = rows_to;
    for (uint32_t u = 0; u < Worker::kUnits; ++u) {
      std::vector<int32_t> residents;
      for (const auto& [position, score] : expected_[u]) residents.push_back(position);
      const std::vector<int32_t> kept = KeptPositions(worker_, result, u, residents);
      EXPECT_EQ(static_cast<int32_t>(kept.size()), budget);
      EXPECT_TRUE(Holds(worker_, kSequence, u, kept));
      const kvs_plan* const plan = worker_.plan(result);
      const kvs_unit_plan* const unit = kvs_unit_plan_of(plan, u);
      const auto* const scores =
          reinterpret_cast<const float*>(reinterpret_cast<const std::byte*>(plan) + unit->scores_offset);
      const size_t candidates = residents.size() - static_cast<size_t>(budget / 2);
      std::vector<double> order;
      for (size_t j = 0; j < candidates; ++j) {
        order.push_back(expected_[u][residents[j]]);
        EXPECT_NEAR(scores[j], order.back(), 1e-4 * (1 + order.back())) << "unit " << u << ", token " << residents[j];
      }
      std::sort(order.rbegin(), order.rend());
      const double least = order[static_cast<size_t>(budget - budget / 2) - 1];
      Scores left;
      for (const int32_t p : kept) {
        left[p] = expected_[u][p];
        EXPECT_TRUE(p >= residents[candidates] || left[p] >= least - 1e-3) << "unit " << u << ", token " << p;
      }
      expected_[u] = left;
    }
  }

  Worker worker_{steward_, port_, 1, "a"};
  int32_t written_ = 0;
  int32_t observed_ = 0;  // by evictions
  std::vector<Scores> expected_ = std::vector<Scores>(Worker::kUnits);
};

TEST_F(PoliciesTest, RunningScoresFollowEveryRowThroughDecodingAndEvictions) {
  for (int32_t end = 16; end <= 192; end += 16) {  // a prefill in chunks
    Write(end);
    Observe(end - 16, end);
  }
  observed_ = 192;
  EvictAndCheck(96, 190, 192);  // rows that were observed count once
  Write(230);
  Observe(192, 208);
  observed_ = 208;
  EvictAndCheck(64, 216, 230);  // rows are skipped, which an eviction may
  Write(240);
  Observe(230, 240);
  observed_ = 240;

  // An eviction by another policy takes the scores along.
  WriteRows(224, 240);
  const core::EvictResult other = Evict(Asked(60, "snapkv"));
  for (uint32_t u = 0; u < Worker::kUnits; ++u) {
    std::vector<int32_t> residents;
    for (const auto& [position, score] : expected_[u]) residents.push_back(position);
    Scores left;
    for (const int32_t p : KeptPositions(worker_, other, u, residents)) left[p] = expected_[u][p];
    expected_[u] = left;
  }
  Write(260);
  EvictAndCheck(32, 244, 260);
}

TEST_F(PoliciesTest, RowsThatAreSkippedOrRepeatedAreAborted) {
  Write(64);
  Observe(0, 16);
  for (const int32_t from : {15, 17}) {
    core::ObserveAsked asked = worker_.ObserveAsked(kSequence, from, from + 8, Preset("h2o"));
    auto spec = std::make_shared<core::EvictSpec>(*asked.items[0].spec);
    for (int32_t row = from; row < from + 8; ++row) spec->window_positions.push_back(row);
    asked.items[0].spec = spec;
    asked.items[0].written_tokens = 64;
    const core::ObserveResult result = worker_.Observe(asked);
    EXPECT_EQ(result.outcome.code, core::Code::kAborted) << result.outcome.message;
    EXPECT_EQ(result.observed_tokens, 16);
  }
  // A repeated request is no repeated row.
  WriteRows(16, 32);
  core::ObserveAsked asked = worker_.ObserveAsked(kSequence, 16, 32, Preset("h2o"));
  asked.items[0].written_tokens = 64;
  auto spec = std::make_shared<core::EvictSpec>(*asked.items[0].spec);
  for (int32_t row = 16; row < 32; ++row) spec->window_positions.push_back(row);
  asked.items[0].spec = spec;
  asked.items[0].request_id = 9;
  EXPECT_EQ(worker_.Observe(asked).observed_tokens, 32);
  EXPECT_EQ(worker_.Observe(asked).observed_tokens, 32);
}

TEST_F(PoliciesTest, ALazyEvictionWaitsForABlockAndThenEvictsToTheBudget) {
  Write(100);
  WriteRows(84, 100);
  core::EvictAsked asked = Asked(85, "snapkv");
  asked.items[0].lazy = true;
  core::EvictResult result = Evict(asked);
  EXPECT_TRUE(result.no_op);
  EXPECT_EQ(result.budget_tokens, 85);
  EXPECT_EQ(result.plan.bytes, 0u);
  // Bytes are made tokens by the lease's geometry.
  auto spec = std::make_shared<core::EvictSpec>(*asked.items[0].spec);
  spec->budget = {.kind = engine::Budget::Kind::kBytes, .amount = 1 << 20};
  const int64_t tokens = *engine::BudgetTokens(spec->budget, Worker::kGeometry, 100);
  asked.items[0].spec = spec;
  result = Evict(asked);
  EXPECT_TRUE(result.no_op);
  EXPECT_EQ(result.budget_tokens, tokens);

  Write(101);
  WriteRows(85, 101);
  asked = Asked(85, "snapkv");
  asked.items[0].lazy = true;
  result = Evict(asked);
  EXPECT_FALSE(result.no_op);
  EXPECT_EQ(std::accumulate(result.kept.begin(), result.kept.end(), 0), 4 * 85);
  asked.items[0].spec = std::make_shared<core::EvictSpec>();  // no budget: the engine says what is wrong
  EXPECT_EQ(MustAsk<core::EvictReply>(steward_, asked).results[0].outcome.code, core::Code::kInvalidArgument);
}

TEST_F(PoliciesTest, ATenantsDefaultChangesAtRunTime) {
  Write(100);
  core::SetTenantAsked set{.call = 0, .tenant = "a", .policy = Preset("streaming-llm")};
  MustAsk<core::SetTenantReply>(steward_, set);
  for (const core::TenantStatus& tenant : Status().tenants) {
    EXPECT_EQ(tenant.policy->name, tenant.name == "a" ? "streaming-llm" : "ahakv-ada");
  }
  const core::EvictResult result = worker_.Evict(kSequence, 100, 20);
  EXPECT_EQ(result.policy->name, "streaming-llm");
  std::vector<int32_t> kept = Range(0, 4);
  for (int32_t p = 84; p < 100; ++p) kept.push_back(p);
  EXPECT_EQ(KeptPositions(worker_, result, 0, Range(0, 100)), kept);
  set.policy = nullptr;
  MustAsk<core::SetTenantReply>(steward_, set);
  EXPECT_EQ(Status().tenants.at(0).policy->name, "ahakv-ada");
}

TEST_F(PoliciesTest, SubmittedScoresComeThroughTheInputsArea) {
  Write(100);
  auto* const scores = reinterpret_cast<float*>(worker_.inputs() + 64);
  for (uint32_t i = 0; i < Worker::kUnits * 100; ++i)
    scores[i] = static_cast<float>(i % 100 * (i / 100 + 1) * 37 % 101);
  auto policy = std::make_shared<engine::Policy>(*engine::Preset("streaming-llm"));
  policy->signal.kind = engine::Signal::Kind::kSubmitted;
  policy->protect = {};
  core::EvictAsked asked = worker_.EvictAsked(kSequence, 100, 10);
  asked.items[0].policy = policy;
  auto spec = std::make_shared<core::EvictSpec>(*asked.items[0].spec);
  asked.items[0].spec = spec;
  core::EvictResult refused = MustAsk<core::EvictReply>(steward_, asked).results.at(0);
  EXPECT_EQ(refused.outcome.code, core::Code::kInvalidArgument);
  EXPECT_NE(refused.outcome.message.find("scores"), std::string::npos) << refused.outcome.message;
  spec = std::make_shared<core::EvictSpec>(*spec);
  spec->scores.given = true;
  spec->scores.offset = 64;
  asked.items[0].spec = spec;
  const core::EvictResult result = Evict(asked);
  for (uint32_t u = 0; u < Worker::kUnits; ++u) {
    std::vector<int32_t> order = Range(0, 100);
    std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      const float score_a = scores[u * 100 + static_cast<uint32_t>(a)];
      const float score_b = scores[u * 100 + static_cast<uint32_t>(b)];
      return score_a != score_b ? score_a > score_b : a < b;
    });
    order.resize(10);
    std::sort(order.begin(), order.end());
    EXPECT_EQ(KeptPositions(worker_, result, u, Range(0, 100)), order);
  }
}

}  // namespace
}  // namespace kvsteward::steward
