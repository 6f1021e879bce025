// What a planner and an observer refuse before any engine runs, the order of their calls, what they divide, and that an
// error leaves everything as it was.
#include "kvsteward/engine/planner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <functional>
#include <numeric>
#include <random>
#include <string>

#include "kernels/plan/protect.h"

namespace kvsteward::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Strings = std::vector<std::string>;

// Scores its candidates by `score`, pins by those scores, keeps the first candidates of each head, and logs the calls.
class FakeEngine final : public Engine {
 public:
  std::string_view name() const override { return "fake"; }

  absl::Status ScoreLayer(const SequenceView& sequence, const Policy& policy, int64_t k, int32_t layer,
                          LayerScores* out) override {
    log.push_back("score " + std::to_string(layer));
    if (layer == bad_layer) return error;
    const std::span<const UnitView> units = UnitsOf(sequence, layer);
    std::vector<CandidateSet> sets;
    int64_t protected_tokens = 0;
    for (const UnitView& unit : units) {
      sets.push_back(Candidates(unit, sequence.pool, sequence.inputs.classes, policy.protect, k));
      protected_tokens += unit.length - sets.back().size();
    }
    *out = {};
    out->offsets.push_back(0);
    for (size_t h = 0; h < units.size(); ++h) {
      std::vector<float> scores;
      for (int32_t j = 0; j < units[h].length; ++j) scores.push_back(score(layer, static_cast<int32_t>(h), j));
      const int64_t most = UniformShare(k, sequence.geometry.kv_heads, protected_tokens);
      if (policy.protect.mass_ppm > 0) PinByMass(scores, policy.protect.mass_ppm, most, &sets[h]);
      if (policy.running()) out->running.insert(out->running.end(), scores.begin(), scores.end());
      for (int32_t j = 0; j < units[h].length; ++j) {
        const bool hole = std::binary_search(sets[h].holes.begin(), sets[h].holes.end(), j);
        if (j < sets[h].begin || j >= sets[h].end || hole) scores[static_cast<size_t>(j)] = kProtected;
      }
      out->scores.insert(out->scores.end(), scores.begin(), scores.end());
      out->offsets.push_back(static_cast<int64_t>(out->scores.size()));
    }
    if (after_score) after_score();
    return absl::OkStatus();
  }

  absl::Status AccumulateLayer(const SequenceView& sequence, const Policy&, int64_t k, int32_t layer,
                               std::vector<float>* running) override {
    log.push_back("accumulate " + std::to_string(layer) + " k " + std::to_string(k));
    if (layer == bad_layer) return error;
    for (const UnitView& unit : UnitsOf(sequence, layer)) {
      running->insert(running->end(), static_cast<size_t>(unit.length), static_cast<float>(layer));
    }
    return absl::OkStatus();
  }

  void StoreRunning(const SequenceView&, int32_t layer, std::span<const float> running) override {
    log.push_back("store " + std::to_string(layer));
    stored.emplace_back(running.begin(), running.end());
  }

  void SelectLayer(const SequenceView& sequence, const Policy&, const LayerScores& scores,
                   LayerChoice& choice) override {
    log.push_back("select " + std::to_string(choice.layer) + " of " + std::to_string(choice.total));
    const std::span<const UnitView> units = UnitsOf(sequence, choice.layer);
    int64_t left = choice.total - wasted;
    for (const float score_of : scores.scores) left -= score_of < 0 ? 1 : 0;
    EXPECT_GE(left, 0);
    for (size_t h = 0; h < units.size(); ++h) {
      int64_t share = choice.shares.empty() ? left : choice.shares[h];
      for (int32_t j = 0; j < units[h].length; ++j) {
        const bool is_protected = scores.scores[static_cast<size_t>(scores.offsets[h] + j)] < 0;
        if (!is_protected && share == 0) continue;
        share -= is_protected ? 0 : 1;
        left -= is_protected ? 0 : 1;
        choice.masks[h][static_cast<size_t>(j / 64)] |= uint64_t{1} << (j % 64);
      }
      choice.kept[h] = 0;
      for (const uint64_t word : choice.masks[h]) choice.kept[h] += std::popcount(word);
    }
    EXPECT_EQ(left, 0);
    choice.unsplit = choice.layer == unsplit_layer;
  }

  void CompactUnits(const Geometry&, const PoolView&, std::span<const UnitCompaction>) override {
    log.push_back("compact");
  }

  std::function<float(int32_t layer, int32_t head, int32_t j)> score = [](int32_t, int32_t, int32_t) { return 1.0f; };
  std::function<void()> after_score;
  absl::Status error = absl::InvalidArgumentError("layer is bad");
  int32_t bad_layer = -1;
  int32_t unsplit_layer = -1;
  int64_t wasted = 0;  // tokens that a layer keeps fewer than its budget
  Strings log;
  std::vector<std::vector<float>> stored;

 private:
  static std::span<const UnitView> UnitsOf(const SequenceView& sequence, int32_t layer) {
    const auto heads = static_cast<size_t>(sequence.geometry.kv_heads);
    return sequence.units.subspan(static_cast<size_t>(layer) * heads, heads);
  }
};

// A sequence that was never evicted, 60 tokens long, but for units that hold only its last ones; two query heads per kv
// head, head_dim 2, a window of the last 4 rows.
class Sequence {
 public:
  explicit Sequence(const std::vector<int32_t>& lengths, int32_t layers = 1) {
    view_.geometry = {.layers = layers,
                      .query_heads = 2 * static_cast<int32_t>(lengths.size()) / layers,
                      .kv_heads = static_cast<int32_t>(lengths.size()) / layers,
                      .head_dim = 2,
                      .dtype = DType::kF32};
    view_.seen = kSeen;
    for (const int32_t length : lengths) {
      units_.push_back({.row = {}, .length = length, .stored = 0, .appended_position = kSeen - length});
    }
    view_.pool.positions = positions_.data();
    view_.window = {.queries = queries_, .dtype = DType::kF32, .rows = 4, .positions = row_positions_};
  }

  SequenceView View() {
    view_.units = units_;
    return view_;
  }
  // Has a unit hold these positions, in a block of its own.
  void Store(size_t u, const std::vector<int32_t>& positions) {
    runs_[u] = {static_cast<uint32_t>(u), 1};
    std::copy(positions.begin(), positions.end(), positions_.begin() + static_cast<std::ptrdiff_t>(u) * kBlockTokens);
    units_[u].row = std::span(&runs_[u], 1);
    units_[u].length = units_[u].stored = static_cast<int32_t>(positions.size());
  }
  UnitView& unit(size_t u) { return units_[u]; }

  static constexpr int32_t kSeen = 60;

 private:
  static constexpr std::byte queries_[1] = {};
  std::vector<int32_t> row_positions_ = {56, 57, 58, 59};
  std::vector<int32_t> positions_ = std::vector<int32_t>(8 * kBlockTokens, -1);
  Run runs_[8];
  std::vector<UnitView> units_;
  SequenceView view_;
};

constexpr Budget kTen = {Budget::Kind::kTokens, 10};

Policy SmallPolicy() {
  Policy policy;
  policy.name = "small";
  policy.protect.sinks = 1;
  policy.protect.recent = 2;
  return policy;
}

Policy RunningPolicy() {
  Policy policy = SmallPolicy();
  policy.window = 0;
  policy.accumulate.kind = Accumulate::Kind::kRunning;
  return policy;
}

Policy PolicyWithLayers(LayerBudget::Kind kind) {
  Policy policy = SmallPolicy();
  policy.layer.kind = kind;
  if (kind == LayerBudget::Kind::kGlobal) policy.head.kind = HeadBudget::Kind::kAdaFloor;
  return policy;
}

// Steps to the end. REQUIRES: no step is refused.
Plan Finish(EvictionPlanner& planner) {
  while (!planner.finished()) {
    const absl::Status status = planner.Step();
    EXPECT_TRUE(status.ok()) << status;
    if (!status.ok()) break;
  }
  return planner.TakePlan();
}

TEST(EvictionPlanner, ScoresAndSelectsALayerPerStep) {
  FakeEngine engine;
  Sequence sequence({30, 30, 30, 30}, 2);
  absl::StatusOr<EvictionPlanner> planner = EvictionPlanner::Start(engine, sequence.View(), SmallPolicy(), kTen, true);
  ASSERT_TRUE(planner.ok()) << planner.status();
  EXPECT_THAT(engine.log, ElementsAre());
  ASSERT_TRUE(planner->Step().ok());
  EXPECT_THAT(engine.log, ElementsAre("score 0", "select 0 of 20"));
  EXPECT_FALSE(planner->finished());
  ASSERT_TRUE(planner->Step().ok());
  EXPECT_THAT(engine.log, ElementsAre("score 0", "select 0 of 20", "score 1", "select 1 of 20"));
  ASSERT_TRUE(planner->finished());
  planner->CommitRunning();
  EXPECT_EQ(engine.log.size(), 4u);
  const Plan plan = planner->TakePlan();
  EXPECT_FALSE(plan.no_op);
  EXPECT_EQ(plan.budget_tokens, 10);
  EXPECT_EQ(plan.layer_budgets, (std::vector<int64_t>{20, 20}));
  ASSERT_EQ(plan.scores.size(), 2u);
  EXPECT_EQ(plan.scores[1].scores.size(), 60u);
  EXPECT_EQ(std::popcount(plan.UnitMask(3)[0]), plan.kept[3]);
}

TEST(EvictionPlanner, ScoresAllLayersFirstIfBudgetsNeedThem) {
  std::vector<Policy> policies = {PolicyWithLayers(LayerBudget::Kind::kEntropy),
                                  PolicyWithLayers(LayerBudget::Kind::kEqualMass),
                                  PolicyWithLayers(LayerBudget::Kind::kGlobal), SmallPolicy()};
  policies.back().protect.mass_ppm = 100'000;
  for (const Policy& policy : policies) {
    for (const bool keep_scores : {false, true}) {
      FakeEngine engine;
      Sequence sequence({30, 30, 30, 30, 30, 30}, 3);
      absl::StatusOr<EvictionPlanner> planner =
          EvictionPlanner::Start(engine, sequence.View(), policy, kTen, keep_scores);
      ASSERT_TRUE(planner.ok()) << planner.status();
      for (size_t step = 1; step <= 7; ++step) {  // the fourth divides the budget
        EXPECT_FALSE(planner->finished());
        ASSERT_TRUE(planner->Step().ok());
        EXPECT_EQ(engine.log.size(), step < 4 ? step : step - 1);
      }
      EXPECT_THAT(engine.log, ElementsAre("score 0", "score 1", "score 2", HasSubstr("select 0"), HasSubstr("select 1"),
                                          HasSubstr("select 2")));
      EXPECT_TRUE(planner->finished());
      const Plan plan = planner->TakePlan();
      EXPECT_EQ(std::accumulate(plan.layer_budgets.begin(), plan.layer_budgets.end(), int64_t{0}), 60);
      EXPECT_EQ(plan.scores.size(), keep_scores ? 3u : 0u);
      if (keep_scores) {
        EXPECT_EQ(plan.scores[2].scores.size(), 60u);
      }
    }
  }
}

TEST(EvictionPlanner, KeepsNoScoresUnlessAsked) {
  FakeEngine engine;
  Sequence sequence({30, 30});
  absl::StatusOr<EvictionPlanner> planner = EvictionPlanner::Start(engine, sequence.View(), SmallPolicy(), kTen, false);
  EXPECT_TRUE(Finish(*planner).scores.empty());
}

TEST(EvictionPlanner, NoOpScoresNothing) {
  FakeEngine engine;
  for (const Policy& policy : {SmallPolicy(), RunningPolicy(), PolicyWithLayers(LayerBudget::Kind::kEqualMass)}) {
    Sequence sequence({13, 7, 3, 17}, 2);
    absl::StatusOr<EvictionPlanner> planner = EvictionPlanner::Start(engine, sequence.View(), policy, kTen, true);
    ASSERT_TRUE(planner.ok()) << planner.status();
    ASSERT_TRUE(planner->finished());
    planner->CommitRunning();
    const Plan plan = planner->TakePlan();
    EXPECT_TRUE(plan.no_op);
    EXPECT_TRUE(plan.scores.empty());
    EXPECT_EQ(plan.kept, (std::vector<int32_t>{13, 7, 3, 17}));
    EXPECT_EQ(plan.layer_budgets, (std::vector<int64_t>{20, 20}));
    EXPECT_EQ(plan.UnitMask(3)[0], (uint64_t{1} << 17) - 1);
    EXPECT_THAT(engine.log, ElementsAre());
  }
}

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

TEST(EvictionPlanner, ClassesThatChangeAreRefused) {
  FakeEngine engine;
  Sequence sequence({30, 30}, 2);
  std::vector<uint8_t> classes(Sequence::kSeen, 0);
  engine.after_score = [&] { std::fill(classes.begin(), classes.end(), uint8_t{1}); };
  SequenceView view = sequence.View();
  view.inputs.classes = classes;
  Policy policy = SmallPolicy();
  policy.protect.classes = {1};
  absl::StatusOr<EvictionPlanner> planner = EvictionPlanner::Start(engine, view, policy, kTen, false);
  ASSERT_TRUE(planner.ok()) << planner.status();
  ASSERT_TRUE(planner->Step().ok());
  const absl::Status status = planner->Step();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("classes protect 30 tokens of layer 1"));
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

TEST(EvictionPlanner, StoresRunningScoresWhenTold) {
  for (const bool keep_scores : {false, true}) {
    FakeEngine engine;
    engine.score = [](int32_t layer, int32_t head, int32_t) { return static_cast<float>(10 * layer + head); };
    Sequence sequence({30, 2, 31, 2}, 2);
    absl::StatusOr<EvictionPlanner> planner =
        EvictionPlanner::Start(engine, sequence.View(), RunningPolicy(), kTen, keep_scores);
    ASSERT_TRUE(planner.ok()) << planner.status();
    const Plan plan = Finish(*planner);
    EXPECT_TRUE(engine.stored.empty());
    planner->CommitRunning();
    EXPECT_THAT(engine.log,
                ElementsAre("score 0", "select 0 of 20", "score 1", "select 1 of 20", "store 0", "store 1"));
    std::vector<float> first(32, 0.0f);
    first[30] = first[31] = 1.0f;
    std::vector<float> second(33, 10.0f);
    second[31] = second[32] = 11.0f;
    EXPECT_THAT(engine.stored, ElementsAre(first, second));
    if (keep_scores) {
      EXPECT_EQ(plan.scores[1].running, second);
    }
  }
}

TEST(EvictionPlanner, AnErrorIsTheStepsAndChangesNothing) {
  for (const LayerBudget::Kind kind : {LayerBudget::Kind::kUniform, LayerBudget::Kind::kEntropy}) {
    for (const absl::Status& error : {absl::InvalidArgumentError("keys are bad"), absl::CancelledError("stopped")}) {
      FakeEngine engine;
      engine.bad_layer = 3;
      engine.error = error;
      Sequence sequence(std::vector<int32_t>(5, 30), 5);
      Policy policy = RunningPolicy();
      policy.layer.kind = kind;
      absl::StatusOr<EvictionPlanner> planner = EvictionPlanner::Start(engine, sequence.View(), policy, kTen, false);
      ASSERT_TRUE(planner.ok()) << planner.status();
      for (int step = 0; step < 3; ++step) ASSERT_TRUE(planner->Step().ok());
      EXPECT_EQ(planner->Step(), error);
      EXPECT_FALSE(planner->finished());
      EXPECT_EQ(engine.log.back(), "score 3");
      EXPECT_TRUE(engine.stored.empty());
      // What failed is tried again by whoever steps on.
      engine.bad_layer = -1;
      const Plan plan = Finish(*planner);
      EXPECT_EQ(std::accumulate(plan.kept.begin(), plan.kept.end(), 0), 50);
    }
  }
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

TEST(EvictionPlanner, ProtectedTokensMustFitUnlessNothingHasToGo) {
  FakeEngine engine;
  Sequence sequence({30, 10});
  Policy policy = SmallPolicy();
  policy.protect = {};
  policy.protect.recent = 12;  // protects 12 and 10 tokens
  const auto start = [&](int64_t tokens) {
    return EvictionPlanner::Start(engine, sequence.View(), policy, {Budget::Kind::kTokens, tokens}, false).status();
  };
  EXPECT_TRUE(start(11).ok());
  EXPECT_EQ(start(10).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(start(10).message()), HasSubstr("protects 22"));
  policy.protect.recent = 100;
  EXPECT_TRUE(start(20).ok());
  EXPECT_FALSE(start(19).ok());
}

using Spoil = std::function<void(SequenceView&, Policy&, Budget&)>;

void ExpectRefused(const Policy& policy, const std::string& text, const Spoil& spoil) {
  FakeEngine engine;
  Sequence sequence({30, 30});
  SequenceView view = sequence.View();
  Policy spoilt = policy;
  Budget budget = kTen;
  spoil(view, spoilt, budget);
  const absl::Status status = EvictionPlanner::Start(engine, view, spoilt, budget, false).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
  EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  EXPECT_THAT(engine.log, ElementsAre());
}

TEST(EvictionPlanner, RefusesWhatCannotWork) {
  static constexpr int32_t kRepeated[] = {1, 2, 2, 3};
  static constexpr int32_t kNegative[] = {-1, 2, 3, 4};
  const struct {
    const char* field;
    Spoil spoil;
  } cases[] = {
      {"head.alpha",
       [](SequenceView&, Policy& p, Budget&) {
         p.head.kind = HeadBudget::Kind::kAdaFloor;
         p.head.alpha_ppm = 2 * kPpm;
       }},
      {"budget", [](SequenceView&, Policy&, Budget& b) { b.amount = 0; }},
      {"budget",
       [](SequenceView&, Policy&, Budget& b) {
         b = {Budget::Kind::kPpmOfSeen, 1};
       }},
      {"window has no query rows", [](SequenceView& s, Policy&, Budget&) { s.window = {}; }},
      {"window has no query rows", [](SequenceView& s, Policy&, Budget&) { s.window.queries = nullptr; }},
      {"window.positions", [](SequenceView& s, Policy&, Budget&) { s.window.positions = s.window.positions.first(1); }},
      {"window.positions", [](SequenceView& s, Policy&, Budget&) { s.seen = 59; }},
      {"window.positions", [](SequenceView& s, Policy&, Budget&) { s.window.positions = kRepeated; }},
      {"window.positions", [](SequenceView& s, Policy&, Budget&) { s.window.positions = kNegative; }},
      {"window has 9000 rows",
       [](SequenceView& s, Policy& p, Budget&) {
         static const std::vector<int32_t> rows = [] {
           std::vector<int32_t> positions(9000);
           std::iota(positions.begin(), positions.end(), 0);
           return positions;
         }();
         p.window = 0;
         s.seen = 9000;
         s.window.rows = 9000;
         s.window.positions = rows;
       }},
      {"query heads", [](SequenceView& s, Policy&, Budget&) { s.geometry.query_heads = 3; }},
      {"geometry", [](SequenceView& s, Policy&, Budget&) { s.geometry.head_dim = 0; }},
      {"geometry", [](SequenceView& s, Policy&, Budget&) { s.geometry.kv_heads = 0; }},
      {"units", [](SequenceView& s, Policy&, Budget&) { s.units = s.units.first(1); }},
      {"layer.weights has 2 numbers; it must have one per layer, 1",
       [](SequenceView&, Policy& p, Budget&) {
         p.layer.kind = LayerBudget::Kind::kTable;
         p.layer.table_ppm = {1, 1};
       }},
      {"head.fractions has 2 lists; it must have one per layer, 1",
       [](SequenceView&, Policy& p, Budget&) {
         p.head.kind = HeadBudget::Kind::kTable;
         p.head.table_ppm = {{1, 1}, {1, 1}};
       }},
      {"head.fractions[0] has 3 numbers; it must have one per kv head, 2",
       [](SequenceView&, Policy& p, Budget&) {
         p.head.kind = HeadBudget::Kind::kTable;
         p.head.table_ppm = {{1, 1, 1}};
       }},
  };
  for (const auto& c : cases) ExpectRefused(SmallPolicy(), c.field, c.spoil);
  // A policy that reads no queries needs no window.
  FakeEngine engine;
  Sequence sequence({30, 30});
  SequenceView view = sequence.View();
  view.window = {};
  Policy policy = SmallPolicy();
  policy.signal.kind = Signal::Kind::kNone;
  EXPECT_TRUE(EvictionPlanner::Start(engine, view, policy, kTen, false).ok());
}

TEST(EvictionPlanner, NamesTheStageWhoseInputIsMissing) {
  static const std::vector<float> numbers(200, 0.5f);
  static const std::vector<uint8_t> classes(100, 0);
  const auto floats = [](size_t count) { return std::span(numbers).first(count); };
  const Spoil nothing = [](SequenceView&, Policy&, Budget&) {};

  Policy submitted = SmallPolicy();
  submitted.signal.kind = Signal::Kind::kSubmitted;
  ExpectRefused(submitted, "signal submitted reads scores; the request gives none", nothing);
  ExpectRefused(submitted, "scores has 59 entries; signal submitted needs 60",
                [&](SequenceView& s, Policy&, Budget&) { s.inputs.scores = floats(59); });

  Policy expected = SmallPolicy();
  expected.signal.kind = Signal::Kind::kExpected;
  ExpectRefused(expected, "signal expected reads query_mean; the request gives none", nothing);
  ExpectRefused(expected, "signal expected reads query_covariance; the request gives none",
                [&](SequenceView& s, Policy&, Budget&) { s.inputs.query_mean = floats(8); });
  ExpectRefused(expected, "query_mean has 9 entries; signal expected needs 8",
                [&](SequenceView& s, Policy&, Budget&) { s.inputs.query_mean = floats(9); });
  ExpectRefused(expected, "query_covariance has 8 entries; signal expected needs 16",
                [&](SequenceView& s, Policy&, Budget&) {
                  s.inputs.query_mean = floats(8);
                  s.inputs.query_covariance = floats(8);
                });
  ExpectRefused(expected, "needs more than there can be", [&](SequenceView& s, Policy&, Budget&) {
    static const std::vector<UnitView> kUnits(8);
    s.units = kUnits;
    s.geometry = {.layers = 8, .query_heads = INT32_MAX, .kv_heads = 1, .head_dim = INT32_MAX, .dtype = DType::kF32};
    s.inputs.query_mean = floats(8);
  });

  Policy two_stage = SmallPolicy();
  two_stage.select.kind = Select::Kind::kTwoStage;
  ExpectRefused(two_stage, "select two_stage reads projected_norms; the request gives none", nothing);
  ExpectRefused(two_stage, "projected_norms has 61 entries; select two_stage needs 60",
                [&](SequenceView& s, Policy&, Budget&) { s.inputs.projected_norms = floats(61); });

  Policy protect = SmallPolicy();
  protect.protect.classes = {1};
  ExpectRefused(protect, "protect.classes reads classes; the request gives none", nothing);
  ExpectRefused(protect, "classes has 59 entries; protect.classes needs 60",
                [&](SequenceView& s, Policy&, Budget&) { s.inputs.classes = std::span(classes).first(59); });
  Policy two_lists = SmallPolicy();
  two_lists.select.kind = Select::Kind::kTwoLists;
  ExpectRefused(two_lists, "select two_lists reads classes; the request gives none", nothing);

  FakeEngine engine;
  Sequence sequence({30, 30});
  SequenceView view = sequence.View();
  view.inputs = {.classes = classes,  // more than was seen is fine
                 .scores = floats(60),
                 .projected_norms = floats(60),
                 .query_mean = floats(8),
                 .query_covariance = floats(16)};
  for (const Policy& policy : {submitted, expected, two_stage, protect, two_lists}) {
    const absl::Status status = EvictionPlanner::Start(engine, view, policy, kTen, false).status();
    EXPECT_TRUE(status.ok()) << status;
  }
}

TEST(EvictionPlanner, ASpanOverTheLayerNeedsTheSameTokensInAllHeads) {
  FakeEngine engine;
  Policy policy = SmallPolicy();
  policy.group.span = Group::Span::kLayer;
  const auto start = [&](Sequence& sequence) {
    return EvictionPlanner::Start(engine, sequence.View(), policy, {Budget::Kind::kTokens, 5}, false).status();
  };
  Sequence same({30, 30, 20, 20}, 2);
  EXPECT_TRUE(start(same).ok());
  Sequence shorter({30, 29, 20, 20}, 2);
  EXPECT_THAT(std::string(start(shorter).message()), HasSubstr("kv heads 0 and 1 of layer 0"));
  Sequence later({30, 30, 20, 20}, 2);
  --later.unit(3).appended_position;
  EXPECT_THAT(std::string(start(later).message()), HasSubstr("kv heads 0 and 1 of layer 1"));

  // Some stored, some appended: what counts are the positions.
  Sequence stored({8, 8, 8}, 1);
  const std::vector<int32_t> positions = {3, 5, 10, 11, 12, 13, 14, 15};
  for (size_t u = 0; u < 3; ++u) stored.Store(u, positions);
  EXPECT_TRUE(start(stored).ok());
  stored.unit(1).stored = 2;
  stored.unit(1).appended_position = 10;
  EXPECT_TRUE(start(stored).ok());
  stored.unit(2).stored = 4;
  stored.unit(2).appended_position = 12;
  EXPECT_TRUE(start(stored).ok());
  stored.unit(2).appended_position = 13;
  EXPECT_THAT(std::string(start(stored).message()), HasSubstr("kv heads 0 and 2 of layer 0"));
  stored.unit(2).appended_position = 12;
  stored.Store(0, {3, 6, 10, 11, 12, 13, 14, 15});
  EXPECT_THAT(std::string(start(stored).message()), HasSubstr("kv heads 0 and 1 of layer 0"));
}

TEST(EvictionPlanner, RunningScoresNeedNoNewRowsOnceSomeWereObserved) {
  FakeEngine engine;
  Sequence sequence({30, 30});
  SequenceView view = sequence.View();
  const auto start = [&] { return EvictionPlanner::Start(engine, view, RunningPolicy(), kTen, false).status(); };
  EXPECT_TRUE(start().ok());
  view.observed = 60;  // all rows are in already
  EXPECT_TRUE(start().ok());
  view.observed = 20;  // rows may be skipped
  EXPECT_TRUE(start().ok());
  view.window = {};
  EXPECT_TRUE(start().ok());
  view.observed = 0;
  EXPECT_THAT(std::string(start().message()), HasSubstr("window has no query rows"));
  view.observed = 20;
  view.window.rows = -1;
  EXPECT_FALSE(start().ok());
}

TEST(Observer, AccumulatesAllLayersBeforeItStores) {
  FakeEngine engine;
  Sequence sequence({3, 4, 5, 6}, 2);
  SequenceView view = sequence.View();
  view.observed = 56;
  absl::StatusOr<Observer> observer = Observer::Start(engine, view, RunningPolicy(), {});
  ASSERT_TRUE(observer.ok()) << observer.status();
  ASSERT_TRUE(observer->Step().ok());
  EXPECT_FALSE(observer->finished());
  ASSERT_TRUE(observer->Step().ok());
  EXPECT_TRUE(observer->finished());
  EXPECT_THAT(engine.log, ElementsAre("accumulate 0 k 0", "accumulate 1 k 0"));
  observer->Commit();
  EXPECT_THAT(engine.stored, ElementsAre(std::vector<float>(7, 0.0f), std::vector<float>(11, 1.0f)));
  EXPECT_EQ(engine.log.back(), "store 1");
}

TEST(Observer, AnErrorStoresNothing) {
  FakeEngine engine;
  engine.bad_layer = 3;
  engine.error = absl::CancelledError("stopped");
  Sequence sequence(std::vector<int32_t>(4, 30), 4);
  SequenceView view = sequence.View();
  view.observed = 56;
  absl::StatusOr<Observer> observer = Observer::Start(engine, view, RunningPolicy(), kTen);
  for (int step = 0; step < 3; ++step) ASSERT_TRUE(observer->Step().ok());
  EXPECT_EQ(observer->Step(), engine.error);
  EXPECT_FALSE(observer->finished());
  EXPECT_TRUE(engine.stored.empty());
  EXPECT_EQ(engine.log.back(), "accumulate 3 k 10");
}

TEST(Observer, TakesOnlyTheRowsThatFollow) {
  FakeEngine engine;
  Sequence sequence({30, 30});
  SequenceView view = sequence.View();
  const auto start = [&](const Policy& policy, const Budget& budget) {
    return Observer::Start(engine, view, policy, budget).status();
  };
  for (const int64_t observed : {0, 55, 57, 60}) {
    view.observed = observed;
    EXPECT_EQ(start(RunningPolicy(), {}).code(), absl::StatusCode::kAborted) << observed;
  }
  view.observed = 56;
  EXPECT_TRUE(start(RunningPolicy(), {}).ok());
  static constexpr int32_t kGap[] = {56, 57, 59};
  view.window.rows = 3;
  view.window.positions = kGap;
  EXPECT_THAT(std::string(start(RunningPolicy(), {}).message()), HasSubstr("has 59 where 58 comes next"));
  view.window.positions = std::span(kGap).first(2);
  EXPECT_EQ(start(RunningPolicy(), {}).code(), absl::StatusCode::kInvalidArgument);
  view.window = {};
  EXPECT_EQ(start(RunningPolicy(), {}).code(), absl::StatusCode::kInvalidArgument);
}

TEST(Observer, RefusesWhatCannotWork) {
  FakeEngine engine;
  Sequence sequence({30, 30});
  SequenceView view = sequence.View();
  view.observed = 56;
  const auto refused = [&](const Policy& policy, const Budget& budget) {
    const absl::Status status = Observer::Start(engine, view, policy, budget).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(refused(SmallPolicy(), kTen), HasSubstr("accumulate running"));
  EXPECT_THAT(refused(RunningPolicy(), {Budget::Kind::kTokens, -1}), HasSubstr("budget is -1"));
  Policy bad = RunningPolicy();
  bad.window = -1;
  EXPECT_THAT(refused(bad, kTen), HasSubstr("window"));
  view.geometry.head_dim = 0;
  EXPECT_THAT(refused(RunningPolicy(), kTen), HasSubstr("geometry"));
  view.geometry.head_dim = 2;
  --sequence.unit(1).length;
  Policy layer = RunningPolicy();
  layer.group.span = Group::Span::kLayer;
  EXPECT_THAT(refused(layer, kTen), HasSubstr("group.span"));
}

}  // namespace
}  // namespace kvsteward::engine
