// What a planner refuses before any engine runs, how it steps, and how it divides a budget over layers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <numeric>
#include <string>

#include "kernels/policy/protect.h"
#include "kernels/policy/select.h"
#include "kvsteward/engine/engine.h"
#include "tests/kernels/random_cases.h"

namespace kvsteward::engine {
namespace {

// Scores every candidate 1 and counts calls; fails in layer `bad_layer`.
class FakeEngine final : public Engine {
 public:
  std::string_view name() const override { return "fake"; }
  absl::Status ScoreLayer(const SequenceView& sequence, const Policy& policy, int64_t k, int32_t layer,
                          LayerScores* out) override {
    ++scored;
    if (layer == bad_layer) return absl::InvalidArgumentError("layer is bad");
    const auto heads = static_cast<size_t>(sequence.geometry.kv_heads);
    *out = {.scores = {}, .offsets = {0}};
    for (const UnitView& unit : sequence.units.subspan(layer * heads, heads)) {
      const CandidateRange range = Candidates(unit, sequence.pool, policy.protect, k);
      for (int32_t j = 0; j < unit.length; ++j) {
        out->scores.push_back(j >= range.begin && j < range.end ? 1.0f : kProtected);
      }
      out->offsets.push_back(static_cast<int64_t>(out->scores.size()));
    }
    return absl::OkStatus();
  }
  void SelectLayer(const LayerScores& scores, const Policy& policy, int64_t layer_total, std::span<int32_t> kept,
                   std::span<const std::span<uint64_t>> masks) override {
    engine::SelectLayer(scores, policy, layer_total, kept, masks);
  }
  void CompactUnit(const Geometry&, const PoolView&, const UnitView&, std::span<const uint64_t>,
                   std::span<const Run>) override {}

  int scored = 0;
  int32_t bad_layer = -1;
};

constexpr Budget kTen = {Budget::Kind::kTokens, 10};

Policy SmallPolicy() {
  Policy policy = *Preset("ahakv-ada");
  policy.protect = {.sinks = 1, .recent = 2};
  return policy;
}

PagedSequence MakePaged(std::vector<int32_t> lengths, int32_t layers) {
  Random random(1);
  Shape shape;
  shape.layers = layers;
  shape.kv_heads = static_cast<int32_t>(lengths.size()) / layers;
  shape.head_dim = 2;
  shape.rows = 4;
  shape.lengths = std::move(lengths);
  return PagedSequence(MakeSequence(random, shape), Placement::kContiguous, 1);
}

TEST(EvictionPlanner, StepsALayerAtATime) {
  FakeEngine engine;
  PagedSequence sequence = MakePaged({30, 30, 30, 30}, 2);
  absl::StatusOr<EvictionPlanner> planner = EvictionPlanner::Start(engine, sequence.View(), SmallPolicy(), kTen, true);
  ASSERT_TRUE(planner.ok()) << planner.status();
  EXPECT_EQ(engine.scored, 0);
  EXPECT_FALSE(planner->finished());
  ASSERT_TRUE(planner->Step().ok());
  EXPECT_EQ(engine.scored, 1);
  EXPECT_FALSE(planner->finished());
  ASSERT_TRUE(planner->Step().ok());
  EXPECT_TRUE(planner->finished());
  const Plan plan = planner->TakePlan();
  EXPECT_FALSE(plan.no_op);
  EXPECT_EQ(plan.budget_tokens, 10);
  EXPECT_EQ(plan.layer_budgets, (std::vector<int64_t>{20, 20}));
  EXPECT_EQ(plan.scores.size(), 2u);
  EXPECT_EQ(plan.scores[1].scores.size(), 60u);
  EXPECT_GE(planner->score_seconds(), 0);
}

TEST(EvictionPlanner, KeepsNoScoresUnlessAsked) {
  FakeEngine engine;
  PagedSequence sequence = MakePaged({30, 30}, 1);
  absl::StatusOr<EvictionPlanner> planner = EvictionPlanner::Start(engine, sequence.View(), SmallPolicy(), kTen, false);
  ASSERT_TRUE(planner->Step().ok());
  EXPECT_TRUE(planner->TakePlan().scores.empty());
}

TEST(EvictionPlanner, NoOpScoresNothing) {
  FakeEngine engine;
  PagedSequence sequence = MakePaged({13, 7, 3, 17}, 2);
  absl::StatusOr<EvictionPlanner> planner = EvictionPlanner::Start(engine, sequence.View(), SmallPolicy(), kTen, true);
  ASSERT_TRUE(planner.ok());
  EXPECT_TRUE(planner->finished());
  const Plan plan = planner->TakePlan();
  EXPECT_TRUE(plan.no_op);
  EXPECT_EQ(plan.kept, (std::vector<int32_t>{13, 7, 3, 17}));
  EXPECT_EQ(plan.layer_budgets, (std::vector<int64_t>{20, 20}));
  EXPECT_EQ(plan.UnitMask(3)[0], (uint64_t{1} << 17) - 1);
  EXPECT_EQ(engine.scored, 0);
}

// A layer that has less than its share passes the rest to the others.
TEST(EvictionPlanner, BudgetsOfShortLayersGoToTheOthers) {
  FakeEngine engine;
  PagedSequence sequence = MakePaged({5, 4, 40, 40, 31, 50}, 3);
  absl::StatusOr<EvictionPlanner> planner = EvictionPlanner::Start(engine, sequence.View(), SmallPolicy(), kTen, false);
  ASSERT_TRUE(planner.ok());
  while (!planner->finished()) ASSERT_TRUE(planner->Step().ok());
  const Plan plan = planner->TakePlan();
  EXPECT_EQ(plan.layer_budgets, (std::vector<int64_t>{9, 26, 25}));
  EXPECT_EQ(std::accumulate(plan.kept.begin(), plan.kept.end(), 0), 60);
}

TEST(EvictionPlanner, AnEnginesErrorIsTheSteps) {
  FakeEngine engine;
  engine.bad_layer = 1;
  PagedSequence sequence = MakePaged({30, 30, 30, 30}, 2);
  absl::StatusOr<EvictionPlanner> planner = EvictionPlanner::Start(engine, sequence.View(), SmallPolicy(), kTen, false);
  ASSERT_TRUE(planner->Step().ok());
  EXPECT_EQ(planner->Step().message(), "layer is bad");
}

TEST(EvictionPlanner, ProtectedTokensMustFitUnlessNothingHasToGo) {
  FakeEngine engine;
  PagedSequence sequence = MakePaged({30, 10}, 1);
  Policy policy = SmallPolicy();
  policy.protect = {.sinks = 0, .recent = 12};  // protects 12 and 10 tokens
  const auto start = [&](int64_t tokens) {
    return EvictionPlanner::Start(engine, sequence.View(), policy, {Budget::Kind::kTokens, tokens}, false).status();
  };
  EXPECT_TRUE(start(11).ok());
  EXPECT_EQ(start(10).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(start(10).message()), ::testing::HasSubstr("protects 22"));
  policy.protect.recent = 100;
  EXPECT_TRUE(start(20).ok());
  EXPECT_FALSE(start(19).ok());
}

TEST(EvictionPlanner, RefusesWhatCannotWork) {
  const struct {
    const char* field;
    std::function<void(SequenceView&, Policy&, Budget&)> spoil;
  } cases[] = {
      {"head.alpha", [](SequenceView&, Policy& p, Budget&) { p.head.alpha_ppm = 2 * kPpm; }},
      {"budget", [](SequenceView&, Policy&, Budget& b) { b.amount = 0; }},
      {"budget",
       [](SequenceView&, Policy&, Budget& b) {
         b = {Budget::Kind::kPpmOfSeen, 1};
       }},
      {"window", [](SequenceView& s, Policy&, Budget&) { s.window = {}; }},
      {"window", [](SequenceView& s, Policy&, Budget&) { s.window.queries = nullptr; }},
      {"window.positions", [](SequenceView& s, Policy&, Budget&) { s.window.positions = s.window.positions.first(1); }},
      {"window.positions", [](SequenceView& s, Policy&, Budget&) { s.seen = 29; }},
      {"window.positions",
       [](SequenceView& s, Policy&, Budget&) {
         static constexpr int32_t kRepeated[] = {1, 2, 2, 3};
         s.window.positions = kRepeated;
       }},
      {"window.positions",
       [](SequenceView& s, Policy&, Budget&) {
         static constexpr int32_t kNegative[] = {-1, 2, 3, 4};
         s.window.positions = kNegative;
       }},
      {"query heads", [](SequenceView& s, Policy&, Budget&) { s.geometry.query_heads = 3; }},
      {"geometry", [](SequenceView& s, Policy&, Budget&) { s.geometry.head_dim = 0; }},
      {"geometry", [](SequenceView& s, Policy&, Budget&) { s.geometry.kv_heads = 0; }},
      {"units", [](SequenceView& s, Policy&, Budget&) { s.units = s.units.first(1); }},
  };
  FakeEngine engine;
  PagedSequence sequence = MakePaged({30, 30}, 1);
  for (const auto& c : cases) {
    SequenceView view = sequence.View();
    Policy policy = SmallPolicy();
    Budget budget = kTen;
    c.spoil(view, policy, budget);
    const absl::Status status = EvictionPlanner::Start(engine, view, policy, budget, false).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.field;
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(c.field));
  }
  // A policy that reads no queries needs no window.
  SequenceView view = sequence.View();
  view.window = {};
  EXPECT_TRUE(EvictionPlanner::Start(engine, view, *Preset("streaming-llm"), kTen, false).ok());
}

}  // namespace
}  // namespace kvsteward::engine
