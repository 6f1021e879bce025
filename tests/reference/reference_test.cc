// The reference itself, against numbers worked out by hand from the specification's words, and published ones.
#include "tests/reference/reference.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "tests/reference/budgets.h"
#include "tests/reference/refine.h"
#include "tests/reference/select.h"
#include "tests/reference/signal.h"

namespace kvsteward::reference {
namespace {

using Counts = std::vector<int64_t>;

constexpr double kNone = kProtected;

// Units whose scores are given; positions ascend from 0.
std::vector<Emitted> Units(const std::vector<Row>& scores) {
  std::vector<Emitted> units;
  for (const Row& row : scores) {
    units.emplace_back();
    units.back().scores = row;
    for (size_t j = 0; j < row.size(); ++j) units.back().positions.push_back(static_cast<int64_t>(j));
  }
  return units;
}

// One head of dimension 1, so that a logit is query times key.
Sequence Plain(Row keys, Row queries, std::vector<int64_t> rows) {
  Sequence s;
  s.layers = s.query_heads = s.kv_heads = s.head_dim = 1;
  s.units = {{.positions = {}, .keys = keys, .values = Row(keys.size(), 1.0), .running = {}}};
  for (size_t j = 0; j < keys.size(); ++j) s.units[0].positions.push_back(static_cast<int64_t>(j));
  s.queries = std::move(queries);
  s.row_positions = std::move(rows);
  return s;
}

void ExpectNear(const Row& row, const Row& expected) {
  ASSERT_EQ(row.size(), expected.size());
  for (size_t j = 0; j < row.size(); ++j) EXPECT_NEAR(row[j], expected[j], 1e-12) << j;
}

// Known answers of Random123 1.09, kat_vectors: philox4x32, 10 rounds.
TEST(Philox, GivesThePublishedNumbers) {
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(Philox({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

// Keys ln 1, ln 2, ln 5 under a query of 1: weights 1, 2, 5.
TEST(Signals, WeighWhatARowSees) {
  const Sequence s = Plain({0, std::log(2.0), std::log(5.0)}, {1, 1}, {1, 2});
  double greatest = 0;
  Policy policy;
  const std::vector<bool> all = {true, true, true};
  const auto rows = [&] { return Attention(s, policy, 1, 0, 0, all, &greatest); };
  ExpectNear(rows()[0], {1.0 / 3, 2.0 / 3, 0});
  ExpectNear(rows()[1], {1.0 / 8, 2.0 / 8, 5.0 / 8});
  EXPECT_DOUBLE_EQ(greatest, std::log(5.0));
  policy.signal = Signal::kPower;
  policy.exponent = 2;
  ExpectNear(rows()[1], {1.0 / 64, 4.0 / 64, 25.0 / 64});
  policy.signal = Signal::kSoftmax1;
  ExpectNear(rows()[1], {1.0 / 9, 2.0 / 9, 5.0 / 9});
  policy.signal = Signal::kStepGainSoftmax;  // 3 tokens seen, k = 1: below g_min
  policy.g_min = 2;
  ExpectNear(rows()[1], {1.0 / 30, 4.0 / 30, 25.0 / 30});
  policy.signal = Signal::kSoftmax;
  policy.over_candidates = true;
  const std::vector<Row> candidates = Attention(s, policy, 1, 0, 0, {false, true, true}, &greatest);
  ExpectNear(candidates[0], {0, 1, 0});
  ExpectNear(candidates[1], {0, 2.0 / 7, 5.0 / 7});
}

TEST(Signals, GainGrowsWithTheTokensSeen) {
  const Sequence s = Plain({0, 1}, {1}, {199});
  double greatest = 0;
  Policy policy;
  policy.signal = Signal::kStepGainSoftmax;
  const Row row = Attention(s, policy, 100, 0, 0, {true, true}, &greatest)[0];
  EXPECT_NEAR(row[1] / row[0], std::exp(std::sqrt(2 * std::log(2.0))), 1e-12);
}

TEST(Signals, KeysUnlikeTheMeanDirectionScoreHigh) {
  Sequence s = Plain({3, 5, -2, 0}, {}, {});
  double noise = 0;
  ExpectNear(KeyDifference(s, s.units[0], &noise), {0, 0, 2, 1});  // mean direction (1 + 1 - 1 + 0) / 4
}

TEST(Signals, ExpectedAttentionSparesSinks) {
  Sequence s = Plain({7, 1, 2}, {}, {});
  s.inputs.query_mean = {std::log(2.0)};
  s.inputs.query_covariance = {std::log(4.0)};
  Policy policy;
  policy.sinks = 1;
  double greatest = 0;
  // ln 2 + ln 4 / 2 = ln 4, and 2 ln 2 + 4 ln 4 / 2 = ln 64.
  ExpectNear(ExpectedAttention(s, policy, 0, 0, &greatest), {0, 4.0 / 68, 64.0 / 68});
}

TEST(Accumulate, OverRows) {
  const std::vector<Row> rows = {{1, 0}, {3, 0.5}};
  Policy policy;
  ExpectNear(Accumulated(rows, policy, 2), {4, 0.5});
  policy.accumulate = Accumulate::kMean;
  ExpectNear(Accumulated(rows, policy, 2), {2, 0.25});
  policy.accumulate = Accumulate::kMax;
  ExpectNear(Accumulated(rows, policy, 2), {3, 0.5});
  policy.accumulate = Accumulate::kMeanVar;
  policy.gamma = 10;
  ExpectNear(Accumulated(rows, policy, 2), {2 + 10 * 1.0, 0.25 + 10 * 0.0625});
  policy.accumulate = Accumulate::kRunning;
  policy.decay = 0.5;
  ExpectNear(Accumulated(rows, policy, 2), {3.5, 0.5});
  ExpectNear(RowsPooled({{4, 0, 0, 2}}, 3)[0], {2, 2, 1, 1});
}

// Two rows, the second's weight 1, the first's 1/2; what was stored counts 1/4.
TEST(Accumulate, RunningScoresGoOn) {
  Sequence s = Plain({0, 0, 0, 0}, {1, 1, 1}, {1, 2, 3});
  s.observed = 2;
  s.units[0].running = {8, 4};
  Policy policy;
  policy.window = 0;
  policy.accumulate = Accumulate::kRunning;
  policy.decay = 0.5;
  const UnitScores unit = ScoreLayer(s, policy, 2, 0)[0];
  const double first = 0.5 / 3;
  ExpectNear(unit.running, {2 + first + 0.25, 1 + first + 0.25, first + 0.25, 0.25});
}

TEST(Refine, OnCandidatesOnly) {
  Sequence s = Plain({0, 0, 0, 0, 0}, {}, {});
  s.units[0].values = {9, 1, 2, 3, 4};
  Policy policy;
  const std::vector<std::vector<bool>> candidate = {{false, true, true, false, true}};
  const Row signals = {100, 4, 1, 100, 7};
  double greatest = 0;
  double noise = 0;
  const auto refined = [&](const Refinement& r) {
    policy.refine = {r};
    return Refined(s, policy, 0, 0, signals, candidate, 2, &greatest, &noise);
  };
  ExpectNear(refined({.kind = Refine::kMaxPool, .pool = 3}), {4, 7, 7});
  ExpectNear(refined({.kind = Refine::kAvgPoolPadded, .pool = 3}), {5.0 / 3, 4, 8.0 / 3});
  ExpectNear(refined({.kind = Refine::kAvgPoolValid, .pool = 3}), {2.5, 4, 4});
  ExpectNear(refined({.kind = Refine::kClampToMean}), {4, 4, 7});
  ExpectNear(refined({.kind = Refine::kMassRatio}), {4 * 11.0 / 12, 11.0 / 12, 7 * 11.0 / 12});
  ExpectNear(refined({.kind = Refine::kValueScale, .norm = Norm::kL1}), {16, 4, 28});
  ExpectNear(refined({.kind = Refine::kValuePrior, .norm = Norm::kL2, .scale = Scale::kNone}), {4, 2, 28});
  ExpectNear(refined({.kind = Refine::kValuePrior, .scale = Scale::kMax}), {4 / 81.0, 4 / 81.0, 7 * 16 / 81.0});
  ExpectNear(refined({.kind = Refine::kValuePrior, .scale = Scale::kMean}), {4 / 7.0, 4 / 7.0, 16});
  // Norms of protected tokens are in the pool: (9 + 1 + 2) / 3, (1 + 2 + 3) / 3, (3 + 4) / 2.
  ExpectNear(refined({.kind = Refine::kValuePrior, .pool = 3, .norm = Norm::kL1, .scale = Scale::kNone}),
             {16, 2, 24.5});
}

TEST(Protect, SinksRecentAndClasses) {
  const Unit unit = {.positions = {0, 3, 5, 6, 9}, .keys = {}, .values = {}, .running = {}};
  Policy policy;
  policy.sinks = 4;
  policy.recent = 1;
  policy.classes = {7};
  const std::vector<int> classes = {7, 0, 0, 0, 0, 0, 7, 0, 0, 0};
  EXPECT_EQ(Candidates(unit, classes, policy, 4), (std::vector<bool>{false, false, true, false, false}));
  policy.sinks = 0;
  policy.classes.clear();
  policy.recent_kind = Recent::kBudgetMinus;
  EXPECT_EQ(Candidates(unit, {}, policy, 4), (std::vector<bool>{true, true, false, false, false}));
  policy.recent_kind = Recent::kBudgetOver;
  policy.recent = 3;
  EXPECT_EQ(Candidates(unit, {}, policy, 4), (std::vector<bool>{true, true, true, true, false}));
}

TEST(Protect, PinsUpToAMass) {
  const Sequence s = Plain({0, 0, 0, 0}, {1}, {3});
  const std::vector<Row> emitted = {{0.125, 0.5, 0.25, 0.125}};
  Policy policy;
  const auto pinned = [&](int64_t mass_ppm) {
    policy.pinned_mass_ppm = mass_ppm;
    std::vector<bool> pins;
    const Row scores = ScoreLayer(s, policy, 3, 0, &emitted)[0].scores;
    for (const double score : scores) pins.push_back(score == kProtected);
    return pins;
  };
  EXPECT_EQ(pinned(800'000), (std::vector<bool>{false, true, true, false}));
  EXPECT_EQ(pinned(750'000), (std::vector<bool>{false, true, true, false}));
  EXPECT_EQ(pinned(749'999), (std::vector<bool>{false, true, false, false}));
  EXPECT_EQ(pinned(400'000), (std::vector<bool>{false, false, false, false}));
  EXPECT_EQ(pinned(1'000'000), (std::vector<bool>{true, true, true, false}));  // at most c = 3
}

TEST(LayerBudget, ByWeights) {
  const std::vector<Emitted> units = Units({Row(10, 1.0), Row(2, 1.0), Row(10, 1.0)});
  Policy policy;
  EXPECT_EQ(LayerTotals(policy, 3, 1, units, 11), (Counts{5, 2, 4}));
  policy.layer = Layer::kTable;
  policy.layer_table = {3, 1, 1};
  EXPECT_EQ(LayerTotals(policy, 3, 1, units, 11), (Counts{7, 2, 2}));  // layer 1 is full, 9 by 3 : 1
  policy.layer_table = {1, 0, 0};
  EXPECT_EQ(LayerTotals(policy, 3, 1, units, 15), (Counts{10, 2, 3}));
  policy.layer = Layer::kPyramid;
  policy.beta = 2;  // c = 4: from 6 to 2 linearly, then what layer 1 cannot hold
  EXPECT_EQ(LayerTotals(policy, 3, 1, units, 12), (Counts{8, 2, 2}));  // 10 shared 6 : 2
}

TEST(LayerBudget, ByScores) {
  Policy policy;
  policy.layer = Layer::kEntropy;  // ln 4 / ln 4 = 1 against 0
  EXPECT_EQ(LayerTotals(policy, 2, 1, Units({{1, 1, 1, 1}, {1, 0, 0, 0}}), 3), (Counts{3, 0}));
  policy.layer = Layer::kEqualMass;
  // Layer 0 holds 0, .4, .7, .9; layer 1 holds 0, .97, .98, .99 before each of its tokens.
  EXPECT_EQ(LayerTotals(policy, 2, 1, Units({{4, 3, 2, 1}, {97, 1, 1, 1}}), 5), (Counts{4, 1}));
  // Nothing to share: both by number, the lower layer first.
  EXPECT_EQ(LayerTotals(policy, 2, 1, Units({{0, 0, 0, 0}, {0, 0, 0, 0}}), 3), (Counts{2, 1}));
}

TEST(HeadBudget, FloorsBlendsAndTables) {
  const std::vector<Emitted> units = Units({{9, 8, 7, 6, 0}, {5, 4, 3, 2, 1}});
  Policy policy;
  bool unsplit = false;
  EXPECT_EQ(HeadTotals(policy, 0, units, 5, &unsplit), (Counts{3, 2}));
  policy.head = Head::kAdaFloor;
  EXPECT_EQ(HeadTotals(policy, 0, units, 5, &unsplit), (Counts{4, 1}));
  policy.alpha_ppm = 800'000;
  EXPECT_EQ(HeadTotals(policy, 0, units, 5, &unsplit), (Counts{3, 2}));
  policy.head = Head::kAdaBlend;
  policy.alpha_ppm = 500'000;  // 3.25 and 1.75
  EXPECT_EQ(HeadTotals(policy, 0, units, 5, &unsplit), (Counts{3, 2}));
  policy.head = Head::kTable;
  policy.head_table = {{100'000, 900'000}};
  EXPECT_EQ(HeadTotals(policy, 0, units, 5, &unsplit), (Counts{1, 4}));  // 0.5 and 4.5: the lower head first
}

TEST(HeadBudget, CheapestSetThatHoldsEnough) {
  std::vector<Emitted> units = Units({{kNone, 1, 1, 1}, {kNone, 4, 3, 1}, {kNone, 5, 4, 3}});
  units[0].attention = {0.95, 0.05, 0, 0};
  units[1].attention = {0.1, 0.5, 0.3, 0.1};
  units[2].attention = {0.1, 0.3, 0.3, 0.3};
  Policy policy;
  policy.head = Head::kCheapest;
  policy.enough_mass_ppm = 850'000;
  bool unsplit = false;
  // c = 2: nothing, the best 2, and all; one more goes to the best of the rest, the lower head's.
  EXPECT_EQ(HeadTotals(policy, 0, units, 6, &unsplit), (Counts{1, 2, 3}));
  // c = 1: heads 1 and 2 want all, which is too much: of what exceeds their best 1, the 4 and head 1's 3 stay.
  EXPECT_EQ(HeadTotals(policy, 0, units, 4, &unsplit), (Counts{0, 2, 2}));
}

TEST(HeadBudget, SplitKeepsTheFarthestHeadsWhole) {
  std::vector<Emitted> units = Units({Row(10, 1.0), Row(10, 1.0), Row(10, 1.0)});
  units[0].distance = 1;
  units[1].distance = 3;
  units[2].distance = 2;
  Policy policy;
  policy.head = Head::kSplit;
  policy.full_heads = 2;
  bool unsplit = true;
  EXPECT_EQ(HeadTotals(policy, 0, units, 22, &unsplit), (Counts{2, 10, 10}));
  EXPECT_EQ(HeadTotals(policy, 0, units, 20, &unsplit), (Counts{5, 10, 5}));  // head 0 would have less than 0.2 c
  EXPECT_EQ(HeadTotals(policy, 0, units, 11, &unsplit), (Counts{1, 10, 0}));
  EXPECT_FALSE(unsplit);
  EXPECT_EQ(HeadTotals(policy, 0, units, 9, &unsplit), (Counts{3, 3, 3}));
  EXPECT_TRUE(unsplit);
}

// Heads' summaries 2 and 6 around a mean of 4: a pool of 7 over 2 tokens gives both (a + b) / 7.
TEST(HeadBudget, DistanceOfSummaries) {
  Sequence s = Plain({0, 0}, {}, {});
  s.kv_heads = s.query_heads = 2;
  s.units.push_back(s.units[0]);
  s.units[0].values = {1, 3};
  s.units[1].values = {3, 9};
  ExpectNear(Distances(s, 0, {{1, 2.5}, {3.5, 0}}), {2, 2});
}

TEST(Select, TwoStageAndTwoLists) {
  Policy policy;
  policy.select = Select::kTwoStage;
  policy.fraction_ppm = 500'000;
  Emitted unit = Units({{3, 1, 2, kNone}})[0];
  unit.projected = {1, 10, 1, 1};
  EXPECT_EQ(SelectUnit(policy, 0, 0, 4, unit, 2), (std::vector<bool>{true, true, false, true}));
  unit = Units({{14, 4, 0, 1, 0}})[0];
  unit.cross = {5, 4, 0, 0, 0};
  unit.self = {9, 0, 0, 1, 0};
  policy.select = Select::kTwoLists;
  policy.share_ppm = 400'000;  // one by cross, one by self, and its last slot goes back to cross
  EXPECT_EQ(SelectUnit(policy, 0, 0, 4, unit, 3), (std::vector<bool>{true, true, false, true, false}));
}

// Between equal scores the largest random number wins: -ln(-ln u) grows with u.
TEST(Select, DrawsFromTheRest) {
  Policy policy;
  policy.select = Select::kTopKRandom;
  policy.fraction_ppm = 500'000;
  policy.seed = 99;
  const Emitted unit = Units({{0.5, 0.5, 800, 0.5, 0.5, 0.5}})[0];
  std::vector<bool> expected(6, false);
  expected[2] = true;
  size_t drawn = 0;
  for (size_t j = 1; j < 6; ++j) {
    const auto x = [](size_t at) { return Philox({3, 1, static_cast<uint32_t>(at), 0}, {99, 0})[0]; };
    if (j != 2 && x(j) > x(drawn)) drawn = j;
  }
  expected[drawn] = true;
  EXPECT_EQ(SelectUnit(policy, 3, 1, 4, unit, 2), expected);
}

TEST(Select, BlocksGoCheapestFirst) {
  Row ascending;
  for (int j = 0; j < 20; ++j) ascending.push_back(j);
  const std::vector<Emitted> units = Units({ascending, Row(16, 100.0)});
  Policy policy;
  policy.select = Select::kBlock;
  // The partial block of 4 costs 3, the next 19, the other head's 100. Six are over: 4 go, then 16.
  std::vector<std::vector<bool>> keep = SelectByBlocks(policy, units, 30);
  EXPECT_EQ(keep[0], std::vector<bool>(20, false));
  EXPECT_EQ(keep[1], std::vector<bool>(16, true));
  keep = SelectByBlocks(policy, units, 33);
  EXPECT_FALSE(keep[0][3]);
  EXPECT_TRUE(keep[0][4]);
  policy.alpha_ppm = 1'000'000;  // floors of 15: only the partial block may go, then floors give way
  EXPECT_EQ(SelectByBlocks(policy, units, 30)[0], std::vector<bool>(20, false));
  // No whole block can go: single tokens do, of equals the higher position.
  EXPECT_EQ(SelectByBlocks(policy, Units({{kNone, 3, 1, 2, 1}}), 2)[0],
            (std::vector<bool>{true, true, false, true, false}));
}

// Two layers of two heads, k = 2: protected tokens count, and each layer keeps exactly 4.
TEST(Decide, KeepsTheTotal) {
  const std::vector<Emitted> units = Units({{kNone, 1, 2}, {kNone, 3, 4}, {1, 2, 3}, {0, 0, 0}});
  Policy policy;
  policy.head = Head::kAdaFloor;
  // 6 candidates stay: 3 and 3 of 4 and 6.
  std::vector<std::vector<bool>> keep = Decide(policy, 2, 2, 2, 1, units).keep;
  EXPECT_EQ(keep[0], (std::vector<bool>{true, false, true}));
  EXPECT_EQ(keep[1], (std::vector<bool>{true, true, true}));
  EXPECT_EQ(keep[2], (std::vector<bool>{true, true, true}));
  EXPECT_EQ(keep[3], (std::vector<bool>{false, false, false}));
  policy.layer = Layer::kGlobal;  // of all: 4 3 | 3 2 | 2 1 and the first 1
  keep = Decide(policy, 2, 2, 2, 1, units).keep;
  EXPECT_EQ(keep[0], (std::vector<bool>{true, true, true}));
  EXPECT_EQ(keep[1], (std::vector<bool>{true, true, true}));
  EXPECT_EQ(keep[2], (std::vector<bool>{false, true, true}));
  EXPECT_EQ(keep[3], (std::vector<bool>{false, false, false}));
  EXPECT_EQ(Decide(policy, 2, 2, 3, 1, units).keep[3], (std::vector<bool>{true, true, true}));  // a no-op
}

}  // namespace
}  // namespace kvsteward::reference
