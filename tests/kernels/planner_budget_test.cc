// What a planner divides over layers and units.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "tests/kernels/planner_fixture.h"

namespace kvsteward::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A layer that has less than its share passes the rest to the others.
TEST(EvictionPlanner, BudgetsOfShortLayersGoToTheOthers) {
  FakeEngine engine;
  Sequence sequence({5, 4, 40, 40, 31, 50}, 3);
  absl::StatusOr<EvictionPlanner> planner = EvictionPlanner::Start(engine, sequence.View(), SmallPolicy(), kTen, false);
  ASSERT_TRUE(planner.ok());
  EXPECT_EQ(Finish(*planner).layer_budgets, (std::vector<int64_t>{9, 26, 25}));
}

TEST(EvictionPlanner, DividesByTheTableAndByTheEntropy) {
  FakeEngine engine;
  engine.score = [](int32_t layer, int32_t, int32_t j) { return layer == 1 && j != 20 ? 0.0f : 1.0f; };
  Sequence sequence({40, 40, 40}, 3);
  Policy policy = SmallPolicy();  // no sink among the last 40 tokens: 6 are protected, 24 candidates stay
  policy.layer.kind = LayerBudget::Kind::kTable;
  policy.layer.table_ppm = {1, 2, 3};
  absl::StatusOr<EvictionPlanner> by_table = EvictionPlanner::Start(engine, sequence.View(), policy, kTen, false);
  ASSERT_TRUE(by_table.ok()) << by_table.status();
  EXPECT_EQ(Finish(*by_table).layer_budgets, (std::vector<int64_t>{6, 10, 14}));
  // All the mass of layer 1 lies on one token: it weighs nothing.
  absl::StatusOr<EvictionPlanner> by_entropy =
      EvictionPlanner::Start(engine, sequence.View(), PolicyWithLayers(LayerBudget::Kind::kEntropy), kTen, false);
  EXPECT_EQ(Finish(*by_entropy).layer_budgets, (std::vector<int64_t>{14, 2, 14}));
}

TEST(EvictionPlanner, GlobalDecidesTheUnitsToo) {
  FakeEngine engine;
  engine.score = [](int32_t layer, int32_t head, int32_t) { return static_cast<float>(10 * layer + head); };
  Sequence sequence({40, 40, 40, 40}, 2);
  Policy policy = PolicyWithLayers(LayerBudget::Kind::kGlobal);
  policy.head.alpha_ppm = 250'000;
  absl::StatusOr<EvictionPlanner> planner = EvictionPlanner::Start(engine, sequence.View(), policy, kTen, false);
  ASSERT_TRUE(planner.ok()) << planner.status();
  // 32 candidates stay: a floor of 2 each, the other 24 to the highest unit.
  EXPECT_EQ(Finish(*planner).kept, (std::vector<int32_t>{4, 4, 4, 28}));
}

TEST(EvictionPlanner, WithASpanOverTheLayerBudgetsAreWholePerHead) {
  for (const LayerBudget::Kind kind :
       {LayerBudget::Kind::kUniform, LayerBudget::Kind::kPyramid, LayerBudget::Kind::kEqualMass}) {
    FakeEngine engine;
    Sequence sequence({40, 40, 40, 40, 12, 12}, 3);
    Policy policy = PolicyWithLayers(kind);
    policy.group.span = Group::Span::kLayer;
    absl::StatusOr<EvictionPlanner> planner =
        EvictionPlanner::Start(engine, sequence.View(), policy, {Budget::Kind::kTokens, 11}, false);
    ASSERT_TRUE(planner.ok()) << planner.status();
    const Plan plan = Finish(*planner);
    for (const int64_t budget : plan.layer_budgets) EXPECT_EQ(budget % 2, 0);
    EXPECT_EQ(std::accumulate(plan.layer_budgets.begin(), plan.layer_budgets.end(), int64_t{0}), 66);
  }
}

TEST(EvictionPlanner, PinsChangeWhatLayersShare) {
  FakeEngine engine;
  engine.score = [](int32_t layer, int32_t, int32_t) { return layer == 0 ? 1.0f : 0.0f; };
  Sequence sequence({40, 40}, 2);
  Policy policy = SmallPolicy();
  policy.protect.mass_ppm = 100'000;  // 4 of layer 0, none of layer 1; 12 candidates stay of 16
  absl::StatusOr<EvictionPlanner> planner = EvictionPlanner::Start(engine, sequence.View(), policy, kTen, false);
  ASSERT_TRUE(planner.ok()) << planner.status();
  EXPECT_EQ(Finish(*planner).layer_budgets, (std::vector<int64_t>{12, 8}));
}

TEST(EvictionPlanner, PinnedTokensMustFitToo) {
  FakeEngine engine;
  Sequence sequence({30, 30}, 2);
  sequence.unit(1).appended_position = 0;
  std::vector<uint8_t> classes(Sequence::kSeen, 0);
  std::fill(classes.begin() + 30, classes.begin() + 45, uint8_t{1});
  SequenceView view = sequence.View();
  view.inputs.classes = classes;
  Policy policy;
  policy.name = "pins";
  policy.protect.classes = {1};  // 15 of layer 0, none of layer 1
  policy.protect.mass_ppm = 900'000;
  const auto finish = [&](int64_t tokens) {
    absl::StatusOr<EvictionPlanner> planner =
        EvictionPlanner::Start(engine, view, policy, {Budget::Kind::kTokens, tokens}, false);
    absl::Status status = planner.status();
    while (status.ok() && !planner->finished()) status = planner->Step();
    return status;
  };
  EXPECT_THAT(std::string(finish(7).message()), HasSubstr("protects 15"));
  EXPECT_THAT(engine.log, ElementsAre());
  // 10 a head: layer 1 pins 10 of its own.
  EXPECT_EQ(finish(10).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(finish(10).message()), HasSubstr("protects 25"));
  EXPECT_THAT(engine.log, ElementsAre("score 0", "score 1", "score 0", "score 1"));
  EXPECT_TRUE(finish(15).ok());
}

TEST(EvictionPlanner, SumsWhatWasKeptAndCountsWhatWasNotSplit) {
  FakeEngine engine;
  engine.wasted = 3;
  engine.unsplit_layer = 1;
  Sequence sequence({30, 30, 30, 30}, 2);
  absl::StatusOr<EvictionPlanner> planner = EvictionPlanner::Start(engine, sequence.View(), SmallPolicy(), kTen, false);
  const Plan plan = Finish(*planner);
  EXPECT_EQ(plan.layer_budgets, (std::vector<int64_t>{17, 17}));
  EXPECT_EQ(plan.unsplit_layers, 1);
}

TEST(EvictionPlanner, KeepsExactlyTheBudgetWhateverTheLengths) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 400; ++trial) {
    const auto layers = static_cast<int32_t>(1 + random() % 4);
    std::vector<int32_t> lengths(static_cast<size_t>(layers) * (1 + random() % 3));
    for (int32_t& length : lengths) length = static_cast<int32_t>(random() % 61);
    Sequence sequence(lengths, layers);
    FakeEngine engine;
    const auto distinct = 1 + random() % 6;
    engine.score = [&](int32_t, int32_t, int32_t) { return static_cast<float>(random() % distinct); };
    Policy policy = PolicyWithLayers(static_cast<LayerBudget::Kind>(random() % 6));
    policy.layer.table_ppm.clear();
    if (policy.layer.kind == LayerBudget::Kind::kTable) {
      for (int32_t l = 0; l < layers; ++l) policy.layer.table_ppm.push_back(static_cast<int64_t>(random() % 3) * 500);
    }
    policy.protect.mass_ppm = random() % 3 == 0 ? 300'000 : 0;
    const Budget budget = {Budget::Kind::kTokens, static_cast<int64_t>(3 + random() % 40)};
    absl::StatusOr<EvictionPlanner> planner = EvictionPlanner::Start(engine, sequence.View(), policy, budget, false);
    ASSERT_TRUE(planner.ok()) << planner.status();
    const Plan plan = Finish(*planner);
    const int64_t residents = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
    EXPECT_EQ(std::accumulate(plan.kept.begin(), plan.kept.end(), int64_t{0}),
              std::min(residents, budget.amount * static_cast<int64_t>(lengths.size())))
        << "trial " << trial;
  }
}

}  // namespace
}  // namespace kvsteward::engine
