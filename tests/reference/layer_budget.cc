#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "tests/reference/arithmetic.h"
#include "tests/reference/budgets.h"
#include "tests/reference/ranking.h"

namespace kvsteward::reference {
namespace {

int64_t Total(const std::vector<int64_t>& counts) { return std::accumulate(counts.begin(), counts.end(), int64_t{0}); }

// x_l = clamp(lambda w_l, 0, M_l) with their sum exact; then floors, then what is left by descending remainder.
std::vector<int64_t> WaterFilled(const Row& weights, const std::vector<int64_t>& caps, int64_t total) {
  const size_t layers = caps.size();
  int64_t weighed = 0;  // what the layers with a weight can hold
  for (size_t l = 0; l < layers; ++l) weighed += weights[l] > 0 ? caps[l] : 0;
  if (weighed < total) {  // they are full; the others share the rest
    std::vector<int64_t> others;
    for (size_t l = 0; l < layers; ++l) others.push_back(weights[l] > 0 ? 0 : caps[l]);
    std::vector<int64_t> shares = WaterFilled(Row(layers, 1.0), others, std::min(total - weighed, Total(others)));
    for (size_t l = 0; l < layers; ++l) shares[l] = weights[l] > 0 ? caps[l] : shares[l];
    return shares;
  }
  std::vector<bool> full(layers, false);
  double lambda = 0;
  for (bool changed = true; changed;) {
    changed = false;
    double left = static_cast<double>(total);
    double weight = 0;
    for (size_t l = 0; l < layers; ++l) {
      if (full[l]) left -= static_cast<double>(caps[l]);
      if (!full[l]) weight += weights[l];
    }
    lambda = weight > 0 ? left / weight : 0;
    for (size_t l = 0; l < layers; ++l) {
      if (full[l] || lambda * weights[l] < static_cast<double>(caps[l])) continue;
      full[l] = changed = true;
    }
  }
  std::vector<int64_t> shares;
  Row remainders;
  for (size_t l = 0; l < layers; ++l) {
    const double exact = full[l] ? static_cast<double>(caps[l]) : lambda * weights[l];
    shares.push_back(static_cast<int64_t>(std::floor(exact)));
    remainders.push_back(exact - std::floor(exact));
  }
  Rounds(total - Total(shares), caps, remainders, &shares);
  return shares;
}

Row PyramidWeights(double beta, double c, double most) {
  const double hi = std::min(2 * c - c / beta, most);
  return {hi, 2 * c - hi};
}

// Of all candidate scores of a layer, in (head, position) order.
double Entropy(const std::vector<Emitted>& layer) {
  Row scores;
  for (const Emitted& unit : layer) {
    for (const double s : unit.scores) {
      if (s != kProtected) scores.push_back(s);
    }
  }
  const double sum = Sum(scores);
  if (scores.size() < 2 || sum == 0) return 0;
  double entropy = 0;
  for (const double s : scores) {
    const double p = s / sum;
    if (p > 0) entropy -= p * std::log(p);
  }
  return entropy / std::log(static_cast<double>(scores.size()));
}

// Takes pairs (layer, j) in ascending share_l(j - 1) until `total` candidates are taken.
std::vector<int64_t> EqualMass(const std::vector<std::vector<Emitted>>& layers, int64_t heads, int64_t total) {
  struct Pair {
    double share;  // that the layer's largest (j - 1) Hkv scores hold
    int64_t j;
    size_t layer;
    int64_t worth;
  };
  std::vector<Pair> pairs;
  for (size_t l = 0; l < layers.size(); ++l) {
    Row held = {0};  // by the largest i scores
    for (const Candidate& c : BestFirst(layers[l])) held.push_back(held.back() + c.score);
    const auto count = static_cast<int64_t>(held.size()) - 1;
    const int64_t steps = (count + heads - 1) / heads;
    for (int64_t j = 1; j <= steps; ++j) {
      const double share = held.back() > 0 ? held[(j - 1) * heads] / held.back()
                                           : static_cast<double>(j - 1) / static_cast<double>(steps);
      pairs.push_back({share, j, l, std::min(heads, count - (j - 1) * heads)});
    }
  }
  std::stable_sort(pairs.begin(), pairs.end(), [](const Pair& a, const Pair& b) {
    return a.share != b.share ? a.share < b.share : a.j != b.j ? a.j < b.j : a.layer < b.layer;
  });
  std::vector<int64_t> taken(layers.size(), 0);
  for (const Pair& pair : pairs) {
    const int64_t some = std::min(pair.worth, total - Total(taken));
    taken[pair.layer] += some;
  }
  return taken;
}

}  // namespace

std::vector<int64_t> LayerTotals(const Policy& policy, int layers, int kv_heads, const std::vector<Emitted>& units,
                                 int64_t total) {
  std::vector<std::vector<Emitted>> by_layer;
  std::vector<int64_t> caps;
  const int64_t share = policy.span_layer ? kv_heads : 1;  // with the group over the layer, budgets are per kv head
  for (int l = 0; l < layers; ++l) {
    by_layer.emplace_back(units.begin() + int64_t{l} * kv_heads, units.begin() + int64_t{l + 1} * kv_heads);
    caps.push_back(Total(CandidateCounts(by_layer.back())) / share);
  }
  Row weights(by_layer.size(), 1.0);
  switch (policy.layer) {
    case Layer::kUniform:
    case Layer::kGlobal:
      break;
    case Layer::kTable:
      weights.assign(policy.layer_table.begin(), policy.layer_table.end());
      break;
    case Layer::kPyramid: {
      const double c = static_cast<double>(total) / (static_cast<double>(layers) * kv_heads);
      const double most = static_cast<double>(caps[0] * share) / kv_heads;
      const Row ends = PyramidWeights(policy.beta, c, most);
      for (int l = 0; l < layers && layers > 1; ++l) weights[l] = ends[0] + (ends[1] - ends[0]) * l / (layers - 1);
      break;
    }
    case Layer::kEntropy:
      for (int l = 0; l < layers; ++l) weights[l] = Entropy(by_layer[l]);
      break;
    case Layer::kEqualMass:
      return EqualMass(by_layer, kv_heads, total);
  }
  if (std::all_of(weights.begin(), weights.end(), [](double w) { return w == 0; })) weights.assign(caps.size(), 1.0);
  std::vector<int64_t> totals = WaterFilled(weights, caps, total / share);
  for (int64_t& t : totals) t *= share;
  return totals;
}

}  // namespace kvsteward::reference
