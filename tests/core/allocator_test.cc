// Free runs and rows of blocks.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <span>
#include <vector>

#include "service/core/row.h"
#include "service/core/run_allocator.h"

namespace kvsteward::core {
namespace {

using Runs = std::vector<kvsteward::Run>;  // testing::Test has a Run of its own

TEST(RunAllocator, TakesTheShortestRunThatHoldsAll) {
  RunAllocator space;
  space.Free({0, 10});
  space.Free({20, 4});
  space.Free({30, 6});
  EXPECT_EQ(space.Take(4), (Row{{20, 4}}));
  EXPECT_EQ(space.Take(5), (Row{{30, 5}}));
  EXPECT_EQ(space.Runs(), (Runs{{0, 10}, {35, 1}}));
  EXPECT_EQ(space.free(), 11u);
}

TEST(RunAllocator, TakesTheLongestFirstIfNoneHoldsAll) {
  RunAllocator space;
  space.Free({0, 3});
  space.Free({10, 5});
  space.Free({20, 2});
  EXPECT_EQ(space.Take(7), (Row{{10, 5}, {20, 2}}));  // what is left of 7 fits the run of 2 best
  EXPECT_EQ(space.Take(3), (Row{{0, 3}}));
  EXPECT_EQ(space.longest(), 0u);
}

TEST(RunAllocator, TakesNeighboursOnlyWhereThereAreEnough) {
  RunAllocator space;
  space.Free({0, 3});
  space.Free({10, 5});
  EXPECT_FALSE(space.TakeOne(6).has_value());
  EXPECT_FALSE(space.TakeOne(uint64_t{1} << 40).has_value());
  EXPECT_EQ(space.TakeOne(3), (kvsteward::Run{0, 3}));
}

TEST(RunAllocator, MergesNeighboursOnBothSides) {
  RunAllocator space;
  space.Free({0, 4});
  space.Free({8, 4});
  space.Free({4, 4});
  EXPECT_EQ(space.Runs(), (Runs{{0, 12}}));
  space.Free({100, 0});
  EXPECT_EQ(space.Runs().size(), 1u);
  EXPECT_TRUE(space.Check().ok());
}

TEST(RunAllocator, TakesBackRowsThatGrewTogether) {
  const std::vector<Row> rows = {{{0, 4}, {20, 1}, {30, 2}}, {{4, 4}, {21, 1}}, {}, {{10, 4}, {22, 1}, {32, 2}}};
  RunAllocator space;
  space.Free(rows);
  EXPECT_EQ(space.Runs(), (Runs{{0, 8}, {10, 4}, {20, 3}, {30, 4}}));
  EXPECT_EQ(space.free(), 19u);
  EXPECT_TRUE(space.Check().ok());
}

TEST(RunAllocator, ReachesTheLastNumber) {
  RunAllocator space;
  space.Free({0xfffffff0u, 15});
  EXPECT_EQ(space.Take(15), (Row{{0xfffffff0u, 15}}));
}

TEST(RunAllocator, AgreesWithABitmap) {
  std::mt19937_64 rng(7);
  RunAllocator space;
  std::vector<bool> free(500, true);
  space.Free({0, 500});
  std::vector<Row> held;
  for (int step = 0; step < 20'000; ++step) {
    if (rng() % 2 == 0 && space.free() > 0) {
      const uint64_t count = 1 + rng() % std::min<uint64_t>(space.free(), 40);
      held.push_back(space.Take(count));
      uint64_t taken = 0;
      for (const kvsteward::Run& run : held.back()) {
        taken += run.count;
        for (uint32_t i = run.first; i < run.end(); ++i) {
          ASSERT_TRUE(free[i]);
          free[i] = false;
        }
      }
      ASSERT_EQ(taken, count);
    } else if (!held.empty()) {
      const size_t which = rng() % held.size();
      space.Free(std::span(&held[which], 1));
      for (const kvsteward::Run& run : held[which]) {
        for (uint32_t i = run.first; i < run.end(); ++i) free[i] = true;
      }
      held.erase(held.begin() + static_cast<std::ptrdiff_t>(which));
    }
    ASSERT_TRUE(space.Check().ok());
    ASSERT_EQ(space.free(), static_cast<uint64_t>(std::count(free.begin(), free.end(), true)));
  }
}

TEST(Row, MergesRunsThatTouch) {
  core::Row row;
  AppendRun(row, {4, 2});
  AppendRun(row, {6, 3});
  AppendRun(row, {1, 1});
  EXPECT_EQ(row, (core::Row{{4, 5}, {1, 1}}));
  EXPECT_EQ(CountBlocks(row), 6u);
}

TEST(Row, IsCutAnywhere) {
  const core::Row whole = {{4, 5}, {1, 1}, {20, 2}};
  struct Case {
    uint64_t count;
    core::Row kept, cut;
  };
  for (const Case& c : std::vector<Case>{{8, whole, {}},
                                         {7, {{4, 5}, {1, 1}, {20, 1}}, {{21, 1}}},
                                         {6, {{4, 5}, {1, 1}}, {{20, 2}}},
                                         {2, {{4, 2}}, {{6, 3}, {1, 1}, {20, 2}}},
                                         {0, {}, whole}}) {
    core::Row row = whole;
    EXPECT_EQ(CutRow(row, c.count), c.cut) << c.count;
    EXPECT_EQ(row, c.kept) << c.count;
  }
}

}  // namespace
}  // namespace kvsteward::core
