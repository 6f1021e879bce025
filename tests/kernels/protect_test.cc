// Which residents are protected, on paged memory, against looking at them one by one.
#include "kernels/plan/protect.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "kernels/plan/row.h"

namespace kvsteward::engine {
namespace {

// A unit with gaps in its positions, its blocks anywhere, its last tokens appended.
struct Unit {
  explicit Unit(std::mt19937& random) {
    const auto length = static_cast<int32_t>(random() % 100);
    const int32_t kept = length == 0 ? 0 : static_cast<int32_t>(random() % static_cast<uint32_t>(length + 1));
    int32_t next = 0;
    for (int32_t j = 0; j < kept; ++j) {
      next += static_cast<int32_t>(random() % 4);
      positions.push_back(next++);
    }
    next += static_cast<int32_t>(random() % 4);
    view = {.row = {}, .length = length, .stored = kept, .appended_position = next};
    while (static_cast<int32_t>(positions.size()) < length) positions.push_back(next++);
    seen = next;

    std::vector<uint32_t> blocks(20);
    std::iota(blocks.begin(), blocks.end(), 0u);
    std::shuffle(blocks.begin(), blocks.end(), random);
    stored.assign(blocks.size() * kBlockTokens, -1);
    for (int32_t j = 0; j < length; ++j) {
      const uint32_t block = blocks[static_cast<size_t>(j / kBlockTokens)];
      if (j % kBlockTokens == 0) row.push_back({block, 1});
      if (j < kept) stored[block * kBlockTokens + static_cast<size_t>(j % kBlockTokens)] = positions[j];
    }
    view.row = row;
    pool.positions = stored.data();
  }

  UnitView view;
  PoolView pool;
  int32_t seen = 0;
  std::vector<int32_t> positions;
  std::vector<int32_t> stored;
  std::vector<Run> row;
};

std::vector<int32_t> Members(const CandidateSet& set) {
  std::vector<int32_t> members;
  for (int32_t j = set.begin; j < set.end; ++j) {
    if (!std::binary_search(set.holes.begin(), set.holes.end(), j)) members.push_back(j);
  }
  return members;
}

TEST(Candidates, EqualsLookingOneByOne) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 2000; ++trial) {
    const Unit unit(random);
    std::vector<uint8_t> classes(static_cast<size_t>(unit.seen));
    for (uint8_t& flag : classes) flag = random() % 3 == 0 ? static_cast<uint8_t>(random()) : 0;
    const auto k = static_cast<int64_t>(1 + random() % 60);
    Protect protect = {.sinks = static_cast<int32_t>(random() % 30),
                       .recent_kind = static_cast<Protect::Recent>(random() % 3),
                       .recent = static_cast<int32_t>(1 + random() % 40)};
    for (int32_t name = 0; name < 256 && trial % 2 == 0; ++name) {
      if (random() % 2 == 0) protect.classes.push_back(name);
    }
    const int64_t recent = protect.recent_kind == Protect::Recent::kTokens        ? protect.recent
                           : protect.recent_kind == Protect::Recent::kBudgetMinus ? k - protect.recent
                                                                                  : k / protect.recent;
    std::vector<int32_t> expected;
    for (int32_t j = 0; j < unit.view.length; ++j) {
      const int32_t position = unit.positions[static_cast<size_t>(j)];
      ASSERT_EQ(PositionOf(unit.view, unit.pool, j), position);
      const std::vector<int32_t>& names = protect.classes;
      const bool flagged = std::count(names.begin(), names.end(), classes[static_cast<size_t>(position)]) != 0;
      if (position >= protect.sinks && j < unit.view.length - recent && !flagged) expected.push_back(j);
    }
    const CandidateSet candidates = Candidates(unit.view, unit.pool, classes, protect, k);
    EXPECT_EQ(Members(candidates), expected) << "trial " << trial;
    EXPECT_EQ(candidates.size(), static_cast<int32_t>(expected.size()));
    EXPECT_TRUE(std::is_sorted(candidates.holes.begin(), candidates.holes.end()));
  }
}

// The caller's bytes are hostile, and may be fewer than positions say.
TEST(Candidates, PositionsWithoutAClassAreNotFlagged) {
  const UnitView unit = {.row = {}, .length = 6, .stored = 0, .appended_position = 10};
  Protect protect;
  protect.classes = {7};
  std::vector<uint8_t> classes(13, 7);
  EXPECT_EQ(Candidates(unit, {}, classes, protect, 1).holes, (std::vector<int32_t>{0, 1, 2}));
  EXPECT_EQ(Candidates(unit, {}, {}, protect, 1).size(), 6);
}

TEST(Candidates, GreatestNumbersDoNotOverflow) {
  const UnitView unit = {.row = {}, .length = INT32_MAX, .stored = 0, .appended_position = 0};
  const auto size = [&](const Protect& protect, int64_t k) { return Candidates(unit, {}, {}, protect, k).size(); };
  EXPECT_EQ(size({.sinks = INT32_MAX}, 1), 0);
  EXPECT_EQ(size({.recent = INT32_MAX}, 1), 0);
  EXPECT_EQ(size({.recent_kind = Protect::Recent::kBudgetMinus, .recent = INT32_MAX}, 1), INT32_MAX);
  EXPECT_EQ(size({.recent_kind = Protect::Recent::kBudgetMinus}, INT64_MAX), 0);
  EXPECT_EQ(size({.recent_kind = Protect::Recent::kBudgetOver, .recent = 1}, INT64_MAX), 0);
  EXPECT_EQ(size({.recent_kind = Protect::Recent::kBudgetOver, .recent = INT32_MAX}, 10), INT32_MAX);
  EXPECT_EQ(size({.sinks = 3, .recent = 5}, 1), INT32_MAX - 8);
}

TEST(UniformShare, RoundsDownAndStopsAtZero) {
  EXPECT_EQ(UniformShare(10, 4, 0), 10);
  EXPECT_EQ(UniformShare(10, 4, 1), 9);
  EXPECT_EQ(UniformShare(10, 4, 4), 9);
  EXPECT_EQ(UniformShare(10, 4, 40), 0);
  EXPECT_EQ(UniformShare(10, 4, 41), 0);
  EXPECT_EQ(UniformShare(INT32_MAX, 4096, 0), INT32_MAX);
}

TEST(PinByMass, ByHand) {
  const std::vector<float> attention = {0.5f, 0.25f, 0, 0.0625f, 0.0625f, 0.125f};  // 1 in all, 0.5 of it a sink's
  const auto pinned = [&](int64_t mass_ppm, int64_t most, CandidateSet candidates = {1, 6, {}}) {
    PinByMass(attention, mass_ppm, most, &candidates);
    return candidates.holes;
  };
  using Holes = std::vector<int32_t>;
  EXPECT_EQ(pinned(0, 6), Holes{});
  EXPECT_EQ(pinned(249'999, 6), Holes{});
  EXPECT_EQ(pinned(250'000, 6), Holes{1});
  EXPECT_EQ(pinned(437'500, 6), (Holes{1, 3, 5}));  // of equal ones the first
  EXPECT_EQ(pinned(kPpm, 6), (Holes{1, 3, 4, 5}));  // none without attention
  EXPECT_EQ(pinned(kPpm, 2), (Holes{1, 5}));
  EXPECT_EQ(pinned(kPpm, 0), Holes{});
  EXPECT_EQ(pinned(kPpm, 2, {1, 6, {1, 4}}), (Holes{1, 3, 4, 5}));  // flagged ones are no candidates
  EXPECT_EQ(pinned(kPpm, 6, {2, 2, {}}), Holes{});
  EXPECT_EQ(pinned(kPpm, 6, {0, 6, {}}), (Holes{0, 1, 3, 4, 5}));
}

TEST(PinByMass, IsTheLongestPrefix) {
  std::mt19937 random(2);
  for (int trial = 0; trial < 1000; ++trial) {
    const auto length = static_cast<int32_t>(1 + random() % 60);
    std::vector<float> attention(static_cast<size_t>(length));
    for (float& a : attention) a = static_cast<float>(random() % 8) / 7;
    CandidateSet candidates;
    candidates.begin = static_cast<int32_t>(random() % static_cast<uint32_t>(length));
    candidates.end =
        candidates.begin + static_cast<int32_t>(random() % static_cast<uint32_t>(length - candidates.begin));
    for (int32_t j = candidates.begin; j < candidates.end; ++j) {
      if (random() % 6 == 0) candidates.holes.push_back(j);
    }
    const auto mass_ppm = static_cast<int64_t>(random() % 1'000'001);
    const auto most = static_cast<int64_t>(random() % 40);

    std::vector<int32_t> order = Members(candidates);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return attention[static_cast<size_t>(a)] > attention[static_cast<size_t>(b)];
    });
    const double bound = static_cast<double>(mass_ppm) / 1e6 * std::accumulate(attention.begin(), attention.end(), 0.0);
    std::set<int32_t> expected(candidates.holes.begin(), candidates.holes.end());
    double held = 0;
    for (int64_t i = 0; i < std::min(most, static_cast<int64_t>(order.size())); ++i) {
      const int32_t j = order[static_cast<size_t>(i)];
      held += attention[static_cast<size_t>(j)];
      if (held > bound || attention[static_cast<size_t>(j)] == 0) break;
      expected.insert(j);
    }
    PinByMass(attention, mass_ppm, most, &candidates);
    EXPECT_EQ(candidates.holes, std::vector<int32_t>(expected.begin(), expected.end())) << "trial " << trial;
  }
}

TEST(RowCursor, WalksRunsAndSkipsEmptyOnes) {
  const std::vector<kvsteward::Run> row = {{5, 2}, {9, 0}, {1, 1}, {0, 0}};
  std::vector<uint32_t> blocks;
  for (RowCursor cursor(row); !cursor.done(); cursor.Next()) blocks.push_back(cursor.block());
  EXPECT_EQ(blocks, (std::vector<uint32_t>{5, 6, 1}));
  for (uint32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(BlockOf(row, i), blocks[i]);
    EXPECT_EQ(RowCursor(row, i).block(), blocks[i]);
  }
  EXPECT_TRUE(RowCursor(row, 3).done());
  EXPECT_TRUE(RowCursor({}).done());
}

}  // namespace
}  // namespace kvsteward::engine
