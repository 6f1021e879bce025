// Selection by digits against sorting: any rows, any bounds, any ties, any order of tasks.
#include "kernels/plan/radix.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <thread>

#include "tests/kernels/random_scores.h"

namespace kvsteward::engine {
namespace {

using Counts = std::vector<int64_t>;

void Backwards(int64_t count, const std::function<void(int64_t)>& body) {
  for (int64_t i = count; i-- > 0;) body(i);
}

// Each half on a thread of its own.
void OnTwoThreads(int64_t count, const std::function<void(int64_t)>& body) {
  std::thread other([&] {
    for (int64_t i = 0; i < count; i += 2) body(i);
  });
  for (int64_t i = 1; i < count; i += 2) body(i);
  other.join();
}

struct Case {
  std::vector<std::vector<float>> rows;
  Counts least;
  Counts most;
  int64_t total = 0;

  std::vector<std::span<const float>> spans() const { return {rows.begin(), rows.end()}; }
};

Case DrawCase(uint32_t seed) {
  std::mt19937 random(seed);
  const auto below = [&](int64_t end) { return static_cast<int64_t>(random() % static_cast<uint64_t>(end)); };
  Case c;
  // Many rows share a slice; long ones take wider digits and several threads.
  const int64_t shape = below(40);
  const int64_t rows = shape == 0 ? 200 : 1 + below(9);
  const int64_t longest = shape == 1 ? 9000 : shape < 4 ? 1500 : 60;
  const auto kind = static_cast<uint32_t>(random());
  const int64_t bounds = below(4);
  for (int64_t u = 0; u < rows; ++u) {
    c.rows.push_back(DrawRow(random, static_cast<size_t>(below(longest + 1)), kind));
    const int64_t size = std::ranges::count_if(c.rows.back(), [](float score) { return score >= 0; });
    const int64_t a = below(size + 1);
    const int64_t b = below(size + 1);
    c.least.push_back(bounds == 0 ? 0 : bounds == 1 ? std::min(size, int64_t{5}) : std::min(a, b));
    c.most.push_back(bounds < 2 ? size : std::max(a, b));
  }
  const int64_t least = std::accumulate(c.least.begin(), c.least.end(), int64_t{0});
  const int64_t most = std::accumulate(c.most.begin(), c.most.end(), int64_t{0});
  const int64_t end = below(6);
  c.total = end == 0 ? least : end == 1 ? most : least + below(most - least + 1);
  return c;
}

// The same by sorting all ranks that compete.
Counts SortedSelection(const Case& c) {
  struct Competitor {
    float score;
    size_t row;
  };
  std::vector<Competitor> competitors;
  for (size_t u = 0; u < c.rows.size(); ++u) {
    std::vector<float> best;
    std::ranges::copy_if(c.rows[u], std::back_inserter(best), [](float score) { return score >= 0; });
    std::ranges::sort(best, std::greater());
    for (int64_t rank = c.least[u]; rank < c.most[u]; ++rank) {
      competitors.push_back({best[static_cast<size_t>(rank)], u});
    }
  }
  std::ranges::stable_sort(competitors, std::greater(), &Competitor::score);
  Counts counts = c.least;
  const int64_t taken = c.total - std::accumulate(c.least.begin(), c.least.end(), int64_t{0});
  for (int64_t i = 0; i < taken; ++i) ++counts[competitors[static_cast<size_t>(i)].row];
  return counts;
}

TEST(SelectJointly, EqualsSorting) {
  for (uint32_t seed = 0; seed < 2000; ++seed) {
    const Case c = DrawCase(seed);
    const JointSelection selection = SelectJointly(c.spans(), c.least, c.most, c.total, Serially);
    ASSERT_EQ(selection.counts, SortedSelection(c)) << "seed " << seed;
    // What no bound holds is cut at the key.
    for (size_t u = 0; u < c.rows.size(); ++u) {
      if (selection.counts[u] == c.least[u] || selection.counts[u] == c.most[u]) continue;
      const KeyCount count = CountKeys(c.rows[u], {selection.key, selection.key});
      ASSERT_LE(count.above, selection.counts[u]) << "seed " << seed;
      ASSERT_GE(count.above + count.within, selection.counts[u]) << "seed " << seed;
    }
  }
}

TEST(SelectJointly, DoesNotDependOnTheOrderOfTasks) {
  for (uint32_t seed = 0; seed < 400; ++seed) {
    const Case c = DrawCase(seed);
    const JointSelection selection = SelectJointly(c.spans(), c.least, c.most, c.total, Serially);
    for (const ParallelFor& parallel : {ParallelFor(Backwards), ParallelFor(OnTwoThreads)}) {
      const JointSelection other = SelectJointly(c.spans(), c.least, c.most, c.total, parallel);
      ASSERT_EQ(other.counts, selection.counts) << "seed " << seed;
      ASSERT_EQ(other.key, selection.key) << "seed " << seed;
    }
  }
}

TEST(SelectJointly, TiesGoToTheLowerRow) {
  const std::vector<float> row = {1, 1, 1};
  const std::vector<std::span<const float>> rows = {row, row, row};
  EXPECT_EQ(SelectJointly(rows, Counts{0, 0, 0}, Counts{3, 3, 3}, 5, Serially).counts, (Counts{3, 2, 0}));
  EXPECT_EQ(SelectJointly(rows, Counts{0, 0, 1}, Counts{2, 3, 3}, 5, Serially).counts, (Counts{2, 2, 1}));
}

TEST(SelectJointly, OfNothingIsNothing) { EXPECT_TRUE(SelectJointly({}, {}, {}, 0, Serially).counts.empty()); }

TEST(FindCut, EndsTheBestOfARow) {
  const std::vector<float> row = {0.0f, 0x1p-149f, -1.0f, 1.0f, 3e38f, 0.0f, -1.0f, 1.0f};
  const auto expect = [&](int64_t count, float score, int64_t ties) {
    const Cut cut = FindCut(row, count);
    EXPECT_EQ(cut.key, KeyOf(score)) << count;
    EXPECT_EQ(cut.ties, ties) << count;
  };
  expect(1, 3e38f, 1);
  expect(2, 1.0f, 1);
  expect(3, 1.0f, 2);
  expect(4, 0x1p-149f, 1);
  expect(5, 0.0f, 1);
  expect(6, 0.0f, 2);
  const Cut nothing = FindCut(row, 0);
  EXPECT_EQ(CountKeys(row, {0, nothing.key}).above, 0);
  EXPECT_EQ(nothing.ties, 0);
}

TEST(SortedKeys, EqualsSorting) {
  for (uint32_t seed = 0; seed < 300; ++seed) {
    std::mt19937 random(seed);
    const std::vector<float> row = DrawRow(random, random() % 3000, seed);
    std::vector<int32_t> expected;
    for (const float score : row) {
      if (score >= 0) expected.push_back(KeyOf(score));
    }
    std::ranges::sort(expected);
    ASSERT_EQ(SortedKeys(row), expected) << "seed " << seed;
  }
}

}  // namespace
}  // namespace kvsteward::engine
