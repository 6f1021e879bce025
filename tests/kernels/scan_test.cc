// Passes over a row of scores against loops, on every instruction set that this machine has.
#include "kernels/plan/scan.h"

#include <gtest/gtest.h>

#include <functional>

#include "hwy/highway.h"
#include "hwy/targets.h"
#include "tests/kernels/random_scores.h"

namespace kvsteward::engine {
namespace {

void OnEveryTarget(const std::function<void()>& body) {
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    body();
    if (testing::Test::HasFatalFailure()) break;
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

std::vector<bool> BitsOf(const std::vector<uint64_t>& mask, size_t size) {
  std::vector<bool> bits;
  for (size_t j = 0; j < size; ++j) bits.push_back((mask[j / 64] >> (j % 64) & 1) != 0);
  return bits;
}

TEST(Scan, EqualsALoop) {
  OnEveryTarget([] {
    for (uint32_t seed = 0; seed < 600; ++seed) {
      std::mt19937 random(seed);
      const size_t size = random() % 300;
      const std::vector<float> row = DrawRow(random, size, static_cast<uint32_t>(random()));
      const auto any_key = [&] { return KeyOf(size == 0 ? 1.0f : std::abs(row[random() % size])); };
      KeyRange range = {any_key(), any_key()};
      if (range.low > range.high) std::swap(range.low, range.high);
      const Cut cut = {any_key(), static_cast<int64_t>(random() % (size + 1))};

      KeyCount count;
      int64_t marks = 0;
      int64_t ties = cut.ties;
      std::vector<float> within;
      std::vector<bool> kept_marks;
      std::vector<bool> kept;
      for (const float score : row) {
        count.above += score >= 0 && KeyOf(score) > range.high ? 1 : 0;
        if (score >= 0 && KeyOf(score) >= range.low && KeyOf(score) <= range.high) within.push_back(score);
        marks += score < 0 ? 1 : 0;
        kept_marks.push_back(score < 0);
        kept.push_back(KeyOf(score) > cut.key || (KeyOf(score) == cut.key && ties-- > 0));
      }

      const KeyCount counted = CountKeys(row, range);
      ASSERT_EQ(counted.above, count.above) << "seed " << seed;
      ASSERT_EQ(counted.within, static_cast<int64_t>(within.size())) << "seed " << seed;
      std::vector<float> gathered = {7.0f};
      const KeyCount found = GatherKeys(row, range, &gathered);
      ASSERT_EQ(found.above, counted.above) << "seed " << seed;
      ASSERT_EQ(found.within, counted.within) << "seed " << seed;
      within.insert(within.begin(), 7.0f);
      ASSERT_EQ(gathered, within) << "seed " << seed;

      std::vector<uint64_t> mask((size + 63) / 64 + 1);
      mask.back() = 0x5555;
      ASSERT_EQ(KeepMarks(row, std::span(mask).first(mask.size() - 1)), marks) << "seed " << seed;
      ASSERT_EQ(BitsOf(mask, size), kept_marks) << "seed " << seed;
      KeepAbove(row, cut, std::span(mask).first(mask.size() - 1));
      for (size_t j = 0; j < size; ++j) kept[j] = kept[j] || kept_marks[j];  // what was set stays
      ASSERT_EQ(BitsOf(mask, size), kept) << "seed " << seed;
      ASSERT_EQ(mask.back(), 0x5555u);
      if (size % 64 != 0) {
        ASSERT_EQ(mask[size / 64] >> (size % 64), 0u) << "seed " << seed;
      }
    }
  });
}

TEST(Scan, KeysOrderAsScores) {
  const std::vector<float> ascending = {-1.0f, 0.0f, 0x1p-149f, 0x1p-126f, 1.0f, 3e38f};
  for (size_t i = 1; i < ascending.size(); ++i) EXPECT_LT(KeyOf(ascending[i - 1]), KeyOf(ascending[i]));
}

}  // namespace
}  // namespace kvsteward::engine
