#include "kernels/plan/layer_budget.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <functional>
#include <numeric>
#include <queue>
#include <tuple>

#include "kernels/plan/allot.h"
#include "kernels/plan/radix.h"
#include "kernels/plan/scan.h"

namespace kvsteward::engine {
namespace {

int64_t Sum(std::span<const int64_t> values) { return std::accumulate(values.begin(), values.end(), int64_t{0}); }

// Linear from the first layer's budget to the last's, per kv head.
std::vector<double> PyramidWeights(double beta, std::span<const int64_t> caps, int64_t total, int64_t kv_heads) {
  const size_t layers = caps.size();
  if (layers == 1) return {1.0};
  const double mean = static_cast<double>(total) / static_cast<double>(static_cast<int64_t>(layers) * kv_heads);
  const double most = static_cast<double>(caps[0]) / static_cast<double>(kv_heads);
  const double high = std::min(2 * mean - mean / beta, most);
  const double low = 2 * mean - high;
  std::vector<double> weights;
  for (size_t l = 0; l < layers; ++l) {
    weights.push_back(high + (low - high) * static_cast<double>(l) / static_cast<double>(layers - 1));
  }
  return weights;
}

// What each layer gets of `total` by weight: lambda w_l, at most caps[l], with the lambda that makes the sum `total`.
// Layers of weight 0 get nothing. REQUIRES: total <= sum of the caps of the others.
std::vector<double> Pour(std::span<const int64_t> caps, std::span<const double> weights, int64_t total) {
  const size_t layers = caps.size();
  std::vector<double> shares(layers, 0.0);
  std::vector<bool> full(layers, false);
  for (bool settled = false; !settled;) {
    double left = static_cast<double>(total);
    double weight = 0;
    for (size_t l = 0; l < layers; ++l) {
      if (full[l]) {
        left -= static_cast<double>(caps[l]);
      } else {
        weight += weights[l];
      }
    }
    const double lambda = weight > 0 ? left / weight : 0;
    settled = true;
    for (size_t l = 0; l < layers; ++l) {
      if (full[l]) continue;
      shares[l] = lambda * weights[l];
      if (weights[l] > 0 && shares[l] >= static_cast<double>(caps[l])) {
        shares[l] = static_cast<double>(caps[l]);
        full[l] = true;
        settled = false;
      }
    }
  }
  return shares;
}

// Adds what each layer gets of `total`: whole numbers of Pour's shares, and what is left one at a time by descending
// remainder, then lower layer. REQUIRES: as Pour.
void ShareOut(std::span<const int64_t> caps, std::span<const double> weights, int64_t total,
              std::vector<int64_t>& shares) {
  const std::vector<double> exact = Pour(caps, weights, total);
  std::vector<double> remainders;
  std::vector<size_t> order;
  for (size_t l = 0; l < caps.size(); ++l) {
    const double whole = std::floor(exact[l]);
    remainders.push_back(exact[l] - whole);
    if (!(weights[l] > 0)) continue;
    shares[l] = static_cast<int64_t>(whole);
    total -= shares[l];
    order.push_back(l);
  }
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return remainders[a] > remainders[b]; });
  while (total > 0) {
    for (const size_t l : order) {
      if (total == 0 || shares[l] == caps[l]) continue;
      ++shares[l];
      --total;
    }
  }
}

}  // namespace

std::vector<int64_t> LayerShares(const LayerBudget& layer, std::span<const int64_t> caps, int64_t total,
                                 int64_t kv_heads, std::span<const double> entropies) {
  total = std::min(total, Sum(caps));
  std::vector<double> weights(caps.size(), 1.0);
  if (layer.kind == LayerBudget::Kind::kTable) weights.assign(layer.table_ppm.begin(), layer.table_ppm.end());
  if (layer.kind == LayerBudget::Kind::kEntropy) weights.assign(entropies.begin(), entropies.end());
  if (layer.kind == LayerBudget::Kind::kPyramid) {
    weights = PyramidWeights(static_cast<double>(layer.beta_ppm) / 1e6, caps, total, kv_heads);
  }

  int64_t weighed = 0;  // what layers with a weight can hold
  for (size_t l = 0; l < caps.size(); ++l) weighed += weights[l] > 0 ? caps[l] : 0;
  std::vector<int64_t> shares(caps.size(), 0);
  ShareOut(caps, weights, std::min(total, weighed), shares);
  if (total > weighed) {
    for (double& weight : weights) weight = weight > 0 ? 0 : 1;
    ShareOut(caps, weights, total - weighed, shares);
  }
  return shares;
}

double LayerEntropy(const LayerScores& scores) {
  double sum = 0;
  int64_t candidates = 0;
  for (const float score : scores.scores) {
    if (score < 0) continue;
    sum += score;
    ++candidates;
  }
  if (candidates < 2 || !(sum > 0)) return 0;
  double entropy = 0;
  for (const float score : scores.scores) {
    if (!(score > 0)) continue;  // 0 ln 0 = 0
    const double p = static_cast<double>(score) / sum;
    entropy -= p * std::log(p);
  }
  return entropy / std::log(static_cast<double>(candidates));
}

std::vector<double> HeldByHighest(const LayerScores& scores, int64_t kv_heads) {
  const std::vector<int32_t> keys = SortedKeys(scores.scores);
  const auto step = static_cast<size_t>(kv_heads);
  std::vector<double> held;
  held.reserve(keys.size() / step + 1);
  double sum = 0;
  for (size_t left = keys.size(); left > 0;) {
    held.push_back(sum);
    const size_t end = left - std::min(left, step);
    while (left > end) sum += std::bit_cast<float>(keys[--left]);
  }
  const auto steps = static_cast<double>(held.size());
  for (size_t j = 0; j < held.size(); ++j) held[j] = sum > 0 ? held[j] / sum : static_cast<double>(j) / steps;
  return held;
}

std::vector<int64_t> EqualMassShares(std::span<const std::vector<double>> held, std::span<const int64_t> caps,
                                     int64_t total, int64_t kv_heads) {
  total = std::min(total, Sum(caps));
  // Each layer's next step: what it holds before it, the step, the layer. The least is taken next.
  using Next = std::tuple<double, size_t, size_t>;
  std::priority_queue<Next, std::vector<Next>, std::greater<>> queue;
  for (size_t l = 0; l < held.size(); ++l) {
    if (!held[l].empty()) queue.emplace(held[l][0], 0, l);
  }
  std::vector<int64_t> shares(caps.size(), 0);
  while (total > 0) {
    const auto [before, step, l] = queue.top();
    queue.pop();
    const int64_t taken = std::min({kv_heads, caps[l] - shares[l], total});
    shares[l] += taken;
    total -= taken;
    if (step + 1 < held[l].size()) queue.emplace(held[l][step + 1], step + 1, l);
  }
  return shares;
}

std::vector<std::vector<int64_t>> GlobalShares(std::span<const LayerScores> layers, int64_t alpha_ppm, int64_t total) {
  std::vector<std::span<const float>> units;
  std::vector<int64_t> sizes;
  for (const LayerScores& layer : layers) {
    for (size_t h = 0; h + 1 < layer.offsets.size(); ++h) {
      const auto begin = static_cast<size_t>(layer.offsets[h]);
      units.push_back(std::span(layer.scores).subspan(begin, static_cast<size_t>(layer.offsets[h + 1]) - begin));
      sizes.push_back(CountKeys(units.back(), {}).within);
    }
  }
  total = std::min(total, Sum(sizes));
  const std::vector<int64_t> floors = AdaFloors(alpha_ppm, sizes, total);
  const std::vector<int64_t> joint = SelectJointly(units, floors, sizes, total, Serially).counts;
  std::vector<std::vector<int64_t>> shares;
  auto next = joint.begin();
  for (const LayerScores& layer : layers) {
    const auto end = next + static_cast<std::ptrdiff_t>(layer.offsets.size() - 1);
    shares.emplace_back(next, end);
    next = end;
  }
  return shares;
}

}  // namespace kvsteward::engine
