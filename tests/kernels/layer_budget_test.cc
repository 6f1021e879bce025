// How a budget is divided over layers: by hand, against definitions followed step by step, and at the edges.
#include "kernels/plan/layer_budget.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <tuple>
#include <vector>

namespace kvsteward::engine {
namespace {

using Kind = LayerBudget::Kind;
using Shares = std::vector<int64_t>;

int64_t Sum(const Shares& shares) { return std::accumulate(shares.begin(), shares.end(), int64_t{0}); }

Shares ByTable(std::vector<int64_t> weights, const Shares& caps, int64_t total) {
  return LayerShares({.kind = Kind::kTable, .table_ppm = std::move(weights)}, caps, total, 1, {});
}

// A layer of heads that hold so many scores each.
LayerScores Layer(const std::vector<std::vector<float>>& heads) {
  LayerScores layer;
  layer.offsets = {0};
  for (const std::vector<float>& head : heads) {
    layer.scores.insert(layer.scores.end(), head.begin(), head.end());
    layer.offsets.push_back(static_cast<int64_t>(layer.scores.size()));
  }
  return layer;
}

// Few distinct values, among them 0, and protected tokens anywhere.
LayerScores RandomLayer(std::mt19937& random, int kv_heads, int longest) {
  std::vector<std::vector<float>> heads(static_cast<size_t>(kv_heads));
  const auto distinct = 1 + random() % 20;
  for (std::vector<float>& head : heads) {
    head.resize(random() % static_cast<uint32_t>(longest + 1));
    for (float& score : head) {
      score = random() % 5 == 0 ? kProtected : static_cast<float>(random() % distinct) * 0.37f;
    }
  }
  return Layer(heads);
}

int64_t CandidatesOf(const LayerScores& layer) {
  return std::count_if(layer.scores.begin(), layer.scores.end(), [](float score) { return score >= 0; });
}

TEST(LayerShares, UniformGoesOutOneAtATimeInRounds) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 2000; ++trial) {
    Shares caps(1 + random() % 9);
    for (int64_t& cap : caps) cap = random() % 4 == 0 ? 0 : random() % 40;
    const auto total = static_cast<int64_t>(random() % static_cast<uint32_t>(Sum(caps) + 10));
    Shares expected(caps.size(), 0);
    for (int64_t left = std::min(total, Sum(caps)); left > 0;) {
      for (size_t l = 0; l < caps.size() && left > 0; ++l) {
        if (expected[l] == caps[l]) continue;
        ++expected[l];
        --left;
      }
    }
    EXPECT_EQ(LayerShares({}, caps, total, 1, {}), expected) << "trial " << trial;
  }
}

TEST(LayerShares, TableByHand) {
  const Shares caps = {100, 100, 100};
  EXPECT_EQ(ByTable({1, 2, 3}, caps, 60), (Shares{10, 20, 30}));
  EXPECT_EQ(ByTable({1, 2, 3}, caps, 61), (Shares{10, 20, 31}));  // remainders 1/6, 2/6, 3/6
  EXPECT_EQ(ByTable({1, 2, 3}, caps, 62), (Shares{10, 21, 31}));  // 2/6, 4/6, 0
  EXPECT_EQ(ByTable({1, 2, 3}, {100, 100, 12}, 60),
            (Shares{16, 32, 12}));  // what a full layer leaves goes to the others
  EXPECT_EQ(ByTable({1, 2, 3}, {100, 30, 12}, 60), (Shares{18, 30, 12}));  // and may fill the next
  EXPECT_EQ(ByTable({1, 1, 1}, caps, 2), (Shares{1, 1, 0}));
  EXPECT_EQ(ByTable({1, 2, 3}, caps, 0), (Shares{0, 0, 0}));
  EXPECT_EQ(ByTable({1, 2, 3}, caps, 1000), caps);
}

TEST(LayerShares, GreatNumbersAreExact) {
  constexpr int64_t kMany = int64_t{1} << 40;
  EXPECT_EQ(LayerShares({}, Shares{kMany, 3, 2 * kMany}, kMany + 1, 4096, {}),
            (Shares{kMany / 2 - 1, 3, kMany / 2 - 1}));
  EXPECT_EQ(ByTable({INT64_MAX, INT64_MAX, 1}, {kMany, kMany, kMany}, kMany), (Shares{kMany / 2, kMany / 2, 0}));
}

TEST(LayerShares, LayersWithoutWeightGetWhatOthersCannotHold) {
  EXPECT_EQ(ByTable({0, 1, 1}, {50, 50, 50}, 60), (Shares{0, 30, 30}));
  EXPECT_EQ(ByTable({0, 1, 0}, {50, 20, 50}, 31), (Shares{6, 20, 5}));
  EXPECT_EQ(ByTable({0, 0, 0}, {50, 1, 50}, 20), (Shares{10, 1, 9}));
  EXPECT_EQ(ByTable({0, 1, 0}, {50, 0, 50}, 20), (Shares{10, 0, 10}));
}

TEST(LayerShares, AreTheWaterFillingToLessThanOneToken) {
  std::mt19937 random(2);
  for (int trial = 0; trial < 3000; ++trial) {
    const size_t layers = 1 + random() % 40;
    Shares caps(layers);
    std::vector<int64_t> weights(layers);
    for (size_t l = 0; l < layers; ++l) {
      caps[l] = static_cast<int64_t>(random() % (trial % 3 == 0 ? 6 : 300'000));
      weights[l] = 1 + static_cast<int64_t>(random() % (trial % 2 == 0 ? 3'000'000 : 4));
      if (trial % 50 == 0) weights[l] *= int64_t{1} << (random() % 40);
    }
    const auto total = static_cast<int64_t>(random() % (static_cast<uint64_t>(Sum(caps)) + 1));
    const Shares shares = ByTable(weights, caps, total);
    ASSERT_EQ(Sum(shares), total) << "trial " << trial;
    // lambda by bisection.
    long double low = 0;
    long double high = 1e9L;
    for (int step = 0; step < 200; ++step) {
      const long double lambda = (low + high) / 2;
      long double sum = 0;
      for (size_t l = 0; l < layers; ++l) {
        sum += std::min<long double>(lambda * static_cast<long double>(weights[l]), static_cast<long double>(caps[l]));
      }
      (sum < static_cast<long double>(total) ? low : high) = lambda;
    }
    for (size_t l = 0; l < layers; ++l) {
      ASSERT_LE(shares[l], caps[l]);
      const long double exact =
          std::min<long double>(high * static_cast<long double>(weights[l]), static_cast<long double>(caps[l]));
      ASSERT_LT(std::fabs(static_cast<double>(exact - static_cast<long double>(shares[l]))), 1.00001)
          << "trial " << trial << " layer " << l;
    }
  }
}

TEST(LayerShares, PyramidByHand) {
  const auto pyramid = [](const Shares& caps, int64_t total, int64_t kv_heads, int64_t beta_ppm = 20 * kPpm) {
    return LayerShares({.kind = Kind::kPyramid, .table_ppm = {}, .beta_ppm = beta_ppm}, caps, total, kv_heads, {});
  };
  // c = 10, weights 19.5, 13 1/6, 6 5/6, 0.5, twice.
  EXPECT_EQ(pyramid({1000, 1000, 1000, 1000}, 80, 2), (Shares{39, 26, 14, 1}));
  // Layer 0 holds 12 a head: weights 12, 10 2/3, 9 1/3, 8.
  EXPECT_EQ(pyramid({24, 1000, 1000, 1000}, 80, 2), (Shares{24, 21, 19, 16}));
  EXPECT_EQ(pyramid({1000, 1000, 1000, 1000}, 80, 2, kPpm), (Shares{20, 20, 20, 20}));
  EXPECT_EQ(pyramid({1000}, 80, 2), (Shares{80}));
  EXPECT_EQ(pyramid({10, 10}, 0, 2), (Shares{0, 0}));
  EXPECT_EQ(pyramid({0, 100, 100}, 60, 1), (Shares{0, 20, 40}));  // weights 0, 20, 40
}

TEST(LayerShares, ByEntropy) {
  LayerBudget by_entropy;
  by_entropy.kind = Kind::kEntropy;
  const std::vector<double> entropies = {0.5, 0.0, 0.25};
  EXPECT_EQ(LayerShares(by_entropy, Shares{100, 100, 100}, 90, 8, entropies), (Shares{60, 0, 30}));
  EXPECT_EQ(LayerShares(by_entropy, Shares{40, 100, 20}, 90, 8, entropies), (Shares{40, 30, 20}));
}

TEST(LayerEntropy, ByHand) {
  EXPECT_EQ(LayerEntropy(Layer({{2, kProtected}, {kProtected, 2}})), 1);
  EXPECT_EQ(LayerEntropy(Layer({{1, 1, 0, 0}})), 0.5);  // of at most 2 bits
  EXPECT_NEAR(LayerEntropy(Layer({{1}, {3}})), 0.8112781244591328, 1e-15);
  EXPECT_EQ(LayerEntropy(Layer({{5, 0, 0}})), 0);
  EXPECT_EQ(LayerEntropy(Layer({{5}, {kProtected}})), 0);
  EXPECT_EQ(LayerEntropy(Layer({{0, 0}, {0}})), 0);
  EXPECT_EQ(LayerEntropy(Layer({{}, {}})), 0);
}

TEST(LayerEntropy, IsNoMoreThanOne) {
  std::mt19937 random(3);
  for (int trial = 0; trial < 300; ++trial) {
    const double entropy = LayerEntropy(RandomLayer(random, 3, 50));
    EXPECT_GE(entropy, 0);
    EXPECT_LE(entropy, 1 + 1e-12);
  }
}

Shares ByEqualMass(const std::vector<LayerScores>& layers, int64_t kv_heads, int64_t total) {
  std::vector<std::vector<double>> held;
  Shares caps;
  for (const LayerScores& layer : layers) {
    held.push_back(HeldByHighest(layer, kv_heads));
    caps.push_back(CandidatesOf(layer));
  }
  return EqualMassShares(held, caps, total, kv_heads);
}

TEST(EqualMassShares, ByHand) {
  const auto& shares = ByEqualMass;
  // What each layer holds before its steps: 0, 1, 1, 1 and 0, 1/4, 2/4, 3/4.
  const LayerScores peak = Layer({{0, 10, 0, 0, kProtected}});
  const LayerScores flat = Layer({{1, kProtected, 1, 1, 1}});
  EXPECT_EQ(shares({peak, flat}, 1, 4), (Shares{1, 3}));
  EXPECT_EQ(shares({peak, flat}, 1, 6), (Shares{2, 4}));
  EXPECT_EQ(shares({flat, peak}, 1, 1), (Shares{1, 0}));  // ties: the lower step, then the lower layer
  EXPECT_EQ(shares({flat, flat}, 1, 3), (Shares{2, 1}));
  EXPECT_EQ(shares({peak, flat}, 1, 100), (Shares{4, 4}));
  // Without mass a layer counts its steps: 0, 1/2 for both.
  EXPECT_EQ(shares({Layer({{0, 0}}), flat}, 1, 3), (Shares{1, 2}));
  // Steps of two candidates: the last is taken in part, and a layer's last may be short.
  const LayerScores two = Layer({{1, 1, 1}, {1, 1, 1}});
  EXPECT_EQ(shares({two, two}, 2, 5), (Shares{3, 2}));
  EXPECT_EQ(shares({Layer({{1, 1}, {1}}), two}, 2, 5), (Shares{2, 3}));
  EXPECT_EQ(shares({Layer({{}, {}}), two}, 2, 3), (Shares{0, 3}));
  EXPECT_EQ(shares({two}, 2, 0), (Shares{0}));
}

TEST(EqualMassShares, EqualsItsDefinition) {
  std::mt19937 random(4);
  for (int trial = 0; trial < 1000; ++trial) {
    const auto kv_heads = static_cast<int64_t>(1 + random() % 4);
    std::vector<LayerScores> layers;
    Shares caps;
    std::vector<std::tuple<double, int64_t, size_t>> steps;
    for (size_t l = 0; l < 1 + trial % 5u; ++l) {
      layers.push_back(RandomLayer(random, static_cast<int>(kv_heads), 30));
      std::vector<double> scores;
      for (const float score : layers[l].scores) {
        if (score >= 0) scores.push_back(score);
      }
      std::sort(scores.rbegin(), scores.rend());
      caps.push_back(static_cast<int64_t>(scores.size()));
      const int64_t count = (caps[l] + kv_heads - 1) / kv_heads;
      const double whole = std::accumulate(scores.begin(), scores.end(), 0.0);
      for (int64_t j = 0; j < count; ++j) {
        const double held = std::accumulate(scores.begin(), scores.begin() + j * kv_heads, 0.0);
        steps.emplace_back(whole > 0 ? held / whole : static_cast<double>(j) / static_cast<double>(count), j, l);
      }
    }
    std::sort(steps.begin(), steps.end());
    const auto total = static_cast<int64_t>(random() % static_cast<uint32_t>(Sum(caps) + 3));
    Shares expected(layers.size(), 0);
    int64_t left = std::min(total, Sum(caps));
    for (const auto& [held, j, l] : steps) {
      const int64_t taken = std::min({kv_heads, caps[l] - j * kv_heads, left});
      expected[l] += taken;
      left -= taken;
    }
    EXPECT_EQ(ByEqualMass(layers, kv_heads, total), expected) << "trial " << trial;
  }
}

TEST(GlobalShares, EqualsItsDefinition) {
  std::mt19937 random(5);
  for (int trial = 0; trial < 1000; ++trial) {
    const int kv_heads = static_cast<int>(1 + random() % 4);
    std::vector<LayerScores> layers;
    for (size_t l = 0; l < 1 + trial % 5u; ++l) layers.push_back(RandomLayer(random, kv_heads, 20));
    int64_t available = 0;
    for (const LayerScores& layer : layers) available += CandidatesOf(layer);
    const auto total = static_cast<int64_t>(random() % static_cast<uint32_t>(available + 1));
    const int64_t alpha_ppm = trial % 3 == 0 ? 0 : static_cast<int64_t>(random() % 1'000'001);
    const auto units = static_cast<int64_t>(layers.size()) * kv_heads;

    // Each unit's best floors, then the best of the rest: (score, layer, head, position in order).
    std::vector<Shares> expected(layers.size(), Shares(static_cast<size_t>(kv_heads), 0));
    std::vector<std::tuple<float, size_t, size_t>> rest;
    int64_t left = total;
    for (size_t l = 0; l < layers.size(); ++l) {
      for (size_t h = 0; h < static_cast<size_t>(kv_heads); ++h) {
        std::vector<float> scores;
        for (auto j = layers[l].offsets[h]; j < layers[l].offsets[h + 1]; ++j) {
          if (layers[l].scores[static_cast<size_t>(j)] >= 0) scores.push_back(layers[l].scores[static_cast<size_t>(j)]);
        }
        std::sort(scores.rbegin(), scores.rend());
        const int64_t floor = std::min(alpha_ppm * total / (kPpm * units), static_cast<int64_t>(scores.size()));
        expected[l][h] = floor;
        left -= floor;
        for (size_t j = static_cast<size_t>(floor); j < scores.size(); ++j) rest.emplace_back(-scores[j], l, h);
      }
    }
    std::sort(rest.begin(), rest.end());
    for (int64_t i = 0; i < left; ++i) {
      const auto& [score, l, h] = rest[static_cast<size_t>(i)];
      ++expected[l][h];
    }
    EXPECT_EQ(GlobalShares(layers, alpha_ppm, total), expected) << "trial " << trial;
  }
}

}  // namespace
}  // namespace kvsteward::engine
