// Which residents are protected, on paged memory, against counting one by one.
#include "kernels/policy/protect.h"

#include <gtest/gtest.h>

#include "kernels/policy/row.h"
#include "tests/kernels/random_cases.h"

namespace kvsteward::engine {
namespace {

TEST(Candidates, EqualsCountingOneByOne) {
  for (uint32_t seed = 0; seed < 500; ++seed) {
    Random random(seed);
    Shape shape = RandomShape(random, 120);
    shape.head_dim = 1;
    shape.window = Rows::kLast;
    PagedSequence sequence(MakeSequence(random, shape), seed % 2 == 0 ? Placement::kContiguous : Placement::kScattered,
                           seed);
    const SequenceView view = sequence.View();
    const Protect protect = RandomPolicy(random).protect;
    const int64_t k = Between(random, 1, 80);
    for (size_t u = 0; u < view.units.size(); ++u) {
      const std::vector<int64_t>& positions = sequence.plain().contents.units[u].positions;
      const auto n = static_cast<int64_t>(positions.size());
      const int64_t recent = protect.recent_kind == Protect::Recent::kTokens ? protect.recent : k - protect.recent;
      const CandidateRange range = Candidates(view.units[u], view.pool, protect, k);
      for (int32_t j = 0; j < n; ++j) {
        EXPECT_EQ(PositionOf(view.units[u], view.pool, j), positions[j]);
        const bool is_protected = positions[j] < protect.sinks || j >= n - recent;
        EXPECT_EQ(j >= range.begin && j < range.end, !is_protected)
            << "seed " << seed << " unit " << u << " token " << j;
      }
      EXPECT_GE(range.size(), 0);
    }
  }
}

TEST(Candidates, GreatestNumbersDoNotOverflow) {
  const UnitView unit = {.row = {}, .length = INT32_MAX, .stored = 0, .appended_position = 0, .normed = 0};
  EXPECT_EQ(Candidates(unit, {}, {.sinks = INT32_MAX}, 1).size(), 0);
  EXPECT_EQ(Candidates(unit, {}, {.recent = INT32_MAX}, 1).size(), 0);
  EXPECT_EQ(Candidates(unit, {}, {.recent_kind = Protect::Recent::kBudgetMinus, .recent = INT32_MAX}, 1).size(),
            INT32_MAX);
  EXPECT_EQ(Candidates(unit, {}, {.recent_kind = Protect::Recent::kBudgetMinus}, INT64_MAX).size(), 0);
  EXPECT_EQ(Candidates(unit, {}, {.sinks = 3, .recent = 5}, 1).size(), INT32_MAX - 8);
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
