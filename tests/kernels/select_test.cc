// Stages 6 to 8 against the reference's sorts: any scores, any budgets, any ties.
#include "kernels/policy/select.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <numeric>
#include <string>

#include "kernels/policy/allot.h"
#include "kernels/policy/radix.h"
#include "tests/kernels/random_cases.h"

namespace kvsteward::engine {
namespace {

// Scores of one kind of trouble each.
float DrawScore(Random& random, uint32_t kind) {
  const auto uniform = static_cast<float>(random()) * 0x1p-32f;
  switch (kind % 6) {
    case 0:
      return uniform;
    case 1:
      return 0.25f;  // all equal
    case 2:
      return static_cast<float>(random() % 4);  // many ties, zeros among them
    case 3:
      return std::ldexp(uniform, -static_cast<int>(random() % 140));  // any exponent, denormals among them
    case 4:
      return std::bit_cast<float>(0x3f800000u + static_cast<uint32_t>(random() % 3));  // differ in the last bit
    default:
      return static_cast<float>(random() % 100'000);
  }
}

TEST(SelectLayer, EqualsTheReference) {
  for (uint32_t seed = 0; seed < 3000; ++seed) {
    Random random(seed);
    const int32_t heads = Between(random, 1, 8);
    Policy policy = RandomPolicy(random);
    LayerScores scores;
    scores.offsets = {0};
    std::vector<std::vector<double>> plain;
    int64_t protected_tokens = 0;
    const int32_t longest = random() % 20 == 0 ? 3000 : 200;
    const auto kind = static_cast<uint32_t>(random());
    for (int32_t h = 0; h < heads; ++h) {
      const int32_t n = Between(random, 0, longest);
      const int32_t sinks = Between(random, 0, 5);
      const int32_t recent = Between(random, 0, 9);
      plain.emplace_back();
      for (int32_t j = 0; j < n; ++j) {
        const bool is_protected = j < sinks || j >= n - recent;
        protected_tokens += is_protected ? 1 : 0;
        scores.scores.push_back(is_protected ? kProtected : DrawScore(random, kind));
        plain.back().push_back(scores.scores.back());
      }
      scores.offsets.push_back(scores.offsets.back() + n);
    }
    // Budgets at both ends and anywhere between; a mean of k tokens per head.
    const int64_t residents = scores.offsets.back();
    const int64_t least = (protected_tokens + heads - 1) / heads;
    const int64_t most = residents / heads;
    if (most < least) continue;
    const int64_t k =
        random() % 4 == 0 ? least : Between(random, static_cast<int32_t>(least), static_cast<int32_t>(most));

    const std::vector<std::vector<bool>> expected = reference::Decide(MirrorOf(policy), 1, heads, k, plain);
    std::vector<int32_t> kept(heads);
    std::vector<std::vector<uint64_t>> words;
    for (const auto& unit : plain) words.emplace_back((unit.size() + 63) / 64);
    const std::vector<std::span<uint64_t>> masks(words.begin(), words.end());
    SelectLayer(scores, policy, k * heads, kept, masks);

    int64_t total = 0;
    for (int32_t h = 0; h < heads; ++h) {
      int32_t bits = 0;
      for (size_t j = 0; j < plain[h].size(); ++j) {
        const bool keep = (words[h][j / 64] >> (j % 64) & 1) != 0;
        ASSERT_EQ(keep, expected[h][j]) << "seed " << seed << " head " << h << " token " << j;
        bits += keep ? 1 : 0;
      }
      ASSERT_EQ(kept[h], bits) << "seed " << seed;
      total += bits;
    }
    ASSERT_EQ(total, k * heads) << "seed " << seed;
  }
}

TEST(SelectLayer, TiesGoToTheLowerHeadThenTheLowerPosition) {
  LayerScores scores{.scores = std::vector<float>(9, 1.0f), .offsets = {0, 3, 6, 9}};
  Policy policy;
  policy.head = {HeadBudget::Kind::kAdaFloor, 0};
  std::vector<int32_t> kept(3);
  std::vector<uint64_t> words(3);
  const std::vector<std::span<uint64_t>> masks = {{&words[0], 1}, {&words[1], 1}, {&words[2], 1}};
  SelectLayer(scores, policy, 5, kept, masks);
  EXPECT_EQ(words, (std::vector<uint64_t>{0b111, 0b011, 0}));
}

TEST(SelectLayer, FloorGuaranteesAShareOfTheUniformBudget) {
  // Head 1 has only poor scores; alpha 0.5 of c = 4 guarantees it its own best 2.
  LayerScores scores{.scores = {9, 9, 9, 9, 9, 9, 9, 9, 1, 2, 3, 4, 5, 6, 7, 8}, .offsets = {0, 8, 16}};
  Policy policy;
  policy.head = {HeadBudget::Kind::kAdaFloor, 500'000};
  std::vector<int32_t> kept(2);
  std::vector<uint64_t> words(2);
  const std::vector<std::span<uint64_t>> masks = {{&words[0], 1}, {&words[1], 1}};
  SelectLayer(scores, policy, 8, kept, masks);
  EXPECT_EQ(kept, (std::vector<int32_t>{6, 2}));
  EXPECT_EQ(words, (std::vector<uint64_t>{0b00111111, 0b11000000}));
}

TEST(SelectLayer, MoreThanThereIsKeepsAll) {
  LayerScores scores{.scores = {kProtected, 1, 2, kProtected}, .offsets = {0, 2, 4}};
  std::vector<int32_t> kept(2);
  std::vector<uint64_t> words(2);
  const std::vector<std::span<uint64_t>> masks = {{&words[0], 1}, {&words[1], 1}};
  SelectLayer(scores, Policy(), 100, kept, masks);
  EXPECT_EQ(words, (std::vector<uint64_t>{0b11, 0b11}));
  EXPECT_EQ(kept, (std::vector<int32_t>{2, 2}));
}

TEST(LayerShares, PoursIntoTheEmptiestLayer) {
  EXPECT_EQ(LayerShares(LayerBudget::kUniform, std::vector<int64_t>{10, 10, 10}, 11), (std::vector<int64_t>{4, 4, 3}));
  EXPECT_EQ(LayerShares(LayerBudget::kUniform, std::vector<int64_t>{10, 2, 10}, 15), (std::vector<int64_t>{7, 2, 6}));
  EXPECT_EQ(LayerShares(LayerBudget::kUniform, std::vector<int64_t>{1, 0, 2}, 100), (std::vector<int64_t>{1, 0, 2}));
  EXPECT_EQ(LayerShares(LayerBudget::kUniform, std::vector<int64_t>{5, 5}, 0), (std::vector<int64_t>{0, 0}));
  // A token at a time would take for ever.
  EXPECT_EQ(
      LayerShares(LayerBudget::kUniform, std::vector<int64_t>{int64_t{1} << 40, 3, int64_t{1} << 41}, int64_t{1} << 40),
      (std::vector<int64_t>{(int64_t{1} << 39) - 1, 3, (int64_t{1} << 39) - 2}));
}

TEST(HeadShares, BlendRoundsByLargestRemainder) {
  // The joint best 5 fall 4 and 1; with alpha 0.5 and c = 2.5 that is 3.25 and 1.75.
  const std::vector<float> first = {9, 8, 7, 6, 0};
  const std::vector<float> second = {5, 4, 3, 2, 1};
  const std::vector<std::span<const float>> candidates = {first, second};
  EXPECT_EQ(HeadShares({HeadBudget::Kind::kAdaBlend, 500'000}, candidates, 5), (std::vector<int64_t>{3, 2}));
  EXPECT_EQ(HeadShares({HeadBudget::Kind::kAdaBlend, 0}, candidates, 5), (std::vector<int64_t>{4, 1}));
  EXPECT_EQ(HeadShares({HeadBudget::Kind::kAdaBlend, kPpm}, candidates, 5), (std::vector<int64_t>{3, 2}));
}

TEST(FindCut, OrdersByBits) {
  const std::vector<float> scores = {0.0f, 0x1p-149f, 1.0f, 3e38f, -0.0f, 1.0f};
  const std::span<const float> unit(scores);
  const int64_t floor = 0;
  const Cut cut = FindCut(std::span(&unit, 1), std::span(&floor, 1), 2);
  EXPECT_EQ(cut.key, std::bit_cast<uint32_t>(1.0f));
  EXPECT_EQ(cut.above[0], 1);
  EXPECT_EQ(cut.equal[0], 2);
  const Cut last = FindCut(std::span(&unit, 1), std::span(&floor, 1), 6);
  EXPECT_EQ(last.key, 0u);
  EXPECT_EQ(last.equal[0], 2);  // both zeros
}

}  // namespace
}  // namespace kvsteward::engine
