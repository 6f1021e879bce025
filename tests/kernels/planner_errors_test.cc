// What a planner refuses, most of it before any engine runs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "tests/kernels/planner_fixture.h"

namespace kvsteward::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

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

}  // namespace
}  // namespace kvsteward::engine
