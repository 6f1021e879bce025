// Head budgets against numbers worked out by hand; select_test compares them with the reference.
#include "kernels/plan/allot.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "kernels/plan/block_shares.h"
#include "kernels/plan/parallel.h"
#include "kernels/plan/radix.h"
#include "kvsteward/engine/engine.h"

namespace kvsteward::engine {
namespace {

using Counts = std::vector<int64_t>;
using Rows = std::vector<std::vector<float>>;

constexpr float kP = kProtected;

Counts SizesOf(const Rows& rows) {
  Counts sizes;
  for (const auto& row : rows) sizes.push_back(std::ranges::count_if(row, [](float score) { return score >= 0; }));
  return sizes;
}

struct Given {
  Rows scores;
  Rows attention = {};
  std::vector<double> distance = {};
};

HeadShares Allot(const HeadBudget& head, const Given& given, int64_t total) {
  const std::vector<std::span<const float>> scores(given.scores.begin(), given.scores.end());
  const std::vector<std::span<const float>> attention(given.attention.begin(), given.attention.end());
  const Counts sizes = SizesOf(given.scores);
  return AllotHeads(head, 0, {scores, sizes, attention, given.distance}, total, Serially);
}

TEST(AllotHeads, UniformPoursIntoTheEmptiestHead) {
  const Given given = {{std::vector<float>(10), std::vector<float>(2), std::vector<float>(10)}};
  EXPECT_EQ(Allot({}, given, 11).shares, (Counts{5, 2, 4}));
  EXPECT_EQ(Allot({}, given, 0).shares, (Counts{0, 0, 0}));
  EXPECT_EQ(Allot({}, given, 22).shares, (Counts{10, 2, 10}));
}

TEST(AllotHeads, BlendRoundsByLargestRemainder) {
  // The joint best 5 fall 4 and 1; with alpha 0.5 and c = 2.5 that is 3.25 and 1.75.
  const Given given = {{{9, 8, 7, 6, 0}, {5, 4, 3, 2, 1}}};
  const auto blend = [&](int64_t alpha_ppm) {
    return Allot({.kind = HeadBudget::Kind::kAdaBlend, .alpha_ppm = alpha_ppm}, given, 5).shares;
  };
  EXPECT_EQ(blend(500'000), (Counts{3, 2}));
  EXPECT_EQ(blend(0), (Counts{4, 1}));
  EXPECT_EQ(blend(kPpm), (Counts{3, 2}));
}

TEST(AllotHeads, TableSharesByFractions) {
  const Given given = {{std::vector<float>(10), std::vector<float>(3), std::vector<float>(10)}};
  const auto table = [&](Counts fractions, int64_t total) {
    return Allot({.kind = HeadBudget::Kind::kTable, .table_ppm = {std::move(fractions)}}, given, total).shares;
  };
  EXPECT_EQ(table({100'000, 200'000, 100'000}, 8), (Counts{3, 3, 2}));  // 2, 4 and 2; head 1 has only 3
  EXPECT_EQ(table({0, 0, 500'000}, 7), (Counts{0, 0, 7}));
  EXPECT_EQ(table({1, 1, 2}, 7), (Counts{2, 2, 3}));  // 1.75, 1.75 and 3.5
  EXPECT_EQ(table({0, 0, 0}, 7), (Counts{3, 2, 2}));
}

// c = 2. Head 0: its protected token holds 0.9. Head 1: its best 2 hold 0.9. Head 2: only all of it does.
TEST(AllotHeads, CheapestKeepsTheSmallestSetThatHoldsEnough) {
  const Given given = {{{kP, 1, 1, 1}, {5, 6, 1, 1}, {3, 3, 3, 2.5f}},
                       {{9, 0.5f, 0.25f, 0.25f}, {4, 5, 0.5f, 0.5f}, {2, 2, 2, 2}}};
  const auto cheapest = [&](int64_t total) {
    return Allot({.kind = HeadBudget::Kind::kCheapest, .mass_ppm = 900'000}, given, total).shares;
  };
  EXPECT_EQ(cheapest(6), (Counts{0, 2, 4}));  // all get what they want
  EXPECT_EQ(cheapest(8), (Counts{2, 2, 4}));  // and of what is left the jointly best: ties to the lower head
}

TEST(AllotHeads, CheapestCutsTheLargestSetFirst) {
  // c = 2, and both heads want all four: floors of 2 each, one more for the better score.
  const Given given = {{{4, 4, 1, 1}, {3, 3, 2, 2}}, {{1, 1, 1, 1}, {1, 1, 1, 1}}};
  EXPECT_EQ(Allot({.kind = HeadBudget::Kind::kCheapest, .mass_ppm = kPpm}, given, 5).shares, (Counts{2, 3}));
  // Heads that want all stand back before those that are content with their best.
  const Given mixed = {{{4, 4, 1, 1}, {0.5f, 0.5f, 0, 0}}, {{1, 1, 1, 1}, {1, 1, 0, 0}}};
  EXPECT_EQ(Allot({.kind = HeadBudget::Kind::kCheapest, .mass_ppm = kPpm}, mixed, 5).shares, (Counts{3, 2}));
}

TEST(AllotHeads, SplitFillsTheFarthestHeads) {
  const Given given = {{std::vector<float>(10), std::vector<float>(10), std::vector<float>(10)}, {}, {1, 3, 2}};
  const auto split = [&](int32_t full_heads, int64_t total) {
    return Allot({.kind = HeadBudget::Kind::kSplit, .full_heads = full_heads}, given, total);
  };
  EXPECT_EQ(split(1, 15).shares, (Counts{3, 10, 2}));  // the others must be left floor(15 / 15) each
  EXPECT_FALSE(split(1, 15).unsplit);
  EXPECT_EQ(split(2, 22).shares, (Counts{2, 10, 10}));
  EXPECT_EQ(split(2, 20).shares, (Counts{5, 10, 5}));  // two would leave none of the 1 that is due
  EXPECT_EQ(split(2, 11).shares, (Counts{1, 10, 0}));  // nothing is due
  EXPECT_EQ(split(2, 9).shares, (Counts{3, 3, 3}));
  EXPECT_TRUE(split(2, 9).unsplit);
}

TEST(SelectJointly, OfVeryManyUnitsKeepsFloors) {
  constexpr int64_t kUnits = 1 << 16;
  std::vector<float> scores;
  for (int64_t i = 0; i < kUnits * 4; ++i) scores.push_back(static_cast<float>(i / 4 % 1000));
  std::vector<std::span<const float>> units;
  for (size_t u = 0; u < kUnits; ++u) units.push_back(std::span(scores).subspan(4 * u, 4));
  const Counts shares = SelectJointly(units, Counts(kUnits, 1), Counts(kUnits, 4), 2 * kUnits, Serially).counts;
  EXPECT_EQ(std::accumulate(shares.begin(), shares.end(), int64_t{0}), 2 * kUnits);
  // A third of the units, those of the highest scores, share what the floors leave.
  EXPECT_EQ(shares[0], 1);
  EXPECT_EQ(shares[999], 4);
  EXPECT_EQ(shares[kUnits - 1], 1);
  EXPECT_TRUE(std::ranges::all_of(shares, [](int64_t share) { return share >= 1 && share <= 4; }));
}

TEST(BlockShares, FreesTheCheapestBlocks) {
  // Head 0 has 20 residents: its first block frees 4 of them at the price of the 4th lowest, 3; the next costs 19.
  // Head 1 has 32, all at 5.
  std::vector<float> first(20);
  std::iota(first.begin(), first.end(), 0.0f);
  const Rows rows = {first, std::vector<float>(32, 5.0f)};
  const std::vector<std::span<const float>> spans(rows.begin(), rows.end());
  const auto shares = [&](int64_t floor, int64_t total) {
    return BlockShares(spans, SizesOf(rows), Counts{floor, floor}, total, Serially);
  };
  EXPECT_EQ(shares(0, 52), (Counts{20, 32}));
  EXPECT_EQ(shares(0, 48), (Counts{16, 32}));
  EXPECT_EQ(shares(0, 47), (Counts{16, 16}));  // 15 fewer than may stay
  EXPECT_EQ(shares(0, 16), (Counts{16, 0}));
  EXPECT_EQ(shares(0, 0), (Counts{0, 0}));
  EXPECT_EQ(shares(16, 32), (Counts{16, 16}));
  EXPECT_EQ(shares(17, 48), (Counts{16, 32}));  // no block leaves 17: the cheapest goes all the same
}

TEST(BlockShares, TakesSingleTokensWhenBlocksAreOut) {
  // Three candidates each: no block of them is whole, as the other residents of their blocks are protected.
  const Rows rows = {{1, kP, kP, 2, 3, kP}, {2, kP, kP, 2, 9, kP}};
  const std::vector<std::span<const float>> spans(rows.begin(), rows.end());
  EXPECT_EQ(BlockShares(spans, SizesOf(rows), Counts{1, 1}, 4, Serially), (Counts{2, 2}));
  EXPECT_EQ(BlockShares(spans, SizesOf(rows), Counts{1, 1}, 3, Serially), (Counts{2, 1}));
  EXPECT_EQ(BlockShares(spans, SizesOf(rows), Counts{1, 1}, 1, Serially), (Counts{0, 1}));
}

TEST(BlockShares, OfEqualPricesTheHigherHeadPays) {
  const Rows rows = {std::vector<float>(32, 1.0f), std::vector<float>(32, 1.0f), {}};
  const std::vector<std::span<const float>> spans(rows.begin(), rows.end());
  EXPECT_EQ(BlockShares(spans, SizesOf(rows), Counts{0, 0, 0}, 48, Serially), (Counts{32, 16, 0}));
}

}  // namespace
}  // namespace kvsteward::engine
