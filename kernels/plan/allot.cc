#include "kernels/plan/allot.h"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <utility>

#include "kernels/plan/cheapest.h"
#include "kernels/plan/radix.h"

namespace kvsteward::engine {
namespace {

// Hands out `left` one at a time, in rounds that visit, in `order`, those below their cap; whole rounds go at once.
// REQUIRES: left <= sum of (caps - shares) over `order`.
void GiveInRounds(int64_t left, std::span<const int64_t> caps, std::span<const size_t> order,
                  std::vector<int64_t>& shares) {
  while (left > 0) {
    int64_t open = 0;
    int64_t least_room = left;
    for (const size_t i : order) {
      if (shares[i] == caps[i]) continue;
      ++open;
      least_room = std::min(least_room, caps[i] - shares[i]);
    }
    const int64_t rounds = std::max<int64_t>(1, std::min(least_room, left / open));
    for (const size_t i : order) {
      if (shares[i] == caps[i]) continue;
      const int64_t given = std::min(rounds, left);
      shares[i] += given;
      left -= given;
    }
  }
}

std::vector<size_t> InOrder(size_t count) {
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  return order;
}

std::vector<int64_t> UniformShares(std::span<const int64_t> caps, int64_t total) {
  std::vector<int64_t> shares(caps.size(), 0);
  GiveInRounds(total, caps, InOrder(caps.size()), shares);
  return shares;
}

// Shares of numerators[u] / denominator: floor and cap first, then what is left in rounds by descending remainder.
std::vector<int64_t> RoundedShares(std::span<const int64_t> numerators, int64_t denominator,
                                   std::span<const int64_t> caps, int64_t total) {
  std::vector<int64_t> shares;
  for (size_t u = 0; u < caps.size(); ++u) shares.push_back(std::min(numerators[u] / denominator, caps[u]));
  std::vector<size_t> order = InOrder(caps.size());
  std::ranges::stable_sort(order, std::greater(), [&](size_t u) { return numerators[u] % denominator; });
  GiveInRounds(total - std::accumulate(shares.begin(), shares.end(), int64_t{0}), caps, order, shares);
  return shares;
}

// alpha of the uniform share, the rest by how the joint best fall: (1 - alpha) c_u + alpha c.
std::vector<int64_t> BlendedShares(int64_t alpha_ppm, const LayerCandidates& candidates, int64_t total,
                                   const ParallelFor& parallel) {
  const auto heads = static_cast<int64_t>(candidates.sizes.size());
  const std::vector<int64_t> none(candidates.sizes.size(), 0);
  std::vector<int64_t> blended = SelectJointly(candidates.scores, none, candidates.sizes, total, parallel).counts;
  // All terms over 1e6 heads; they stay below 1e6 * 4096 * 2^31 < 2^63.
  for (int64_t& share : blended) share = (kPpm - alpha_ppm) * share * heads + alpha_ppm * total;
  return RoundedShares(blended, kPpm * heads, candidates.sizes, total);
}

std::vector<int64_t> TableShares(std::span<const int64_t> fractions, std::span<const int64_t> sizes, int64_t total) {
  const int64_t sum = std::accumulate(fractions.begin(), fractions.end(), int64_t{0});
  if (sum == 0) return UniformShares(sizes, total);
  std::vector<int64_t> exact;
  for (const int64_t fraction : fractions) exact.push_back(fraction * total);  // below 1e6 * 4096 * 2^31 < 2^63
  return RoundedShares(exact, sum, sizes, total);
}

// The heads farthest from the layer's mean keep all they have, as many as leave the others a fifth of their share.
HeadShares AllotSplit(int64_t most_full, const LayerCandidates& candidates, int64_t total) {
  const std::span<const int64_t> sizes = candidates.sizes;
  std::vector<size_t> order = InOrder(sizes.size());
  std::ranges::stable_sort(order, std::greater(), [&](size_t u) { return candidates.distance[u]; });
  const auto heads = static_cast<int64_t>(sizes.size());
  int64_t full = 0;
  int64_t full_total = 0;
  int64_t sum = 0;
  for (int64_t f = 1; f <= std::min(most_full, heads); ++f) {
    sum += sizes[order[static_cast<size_t>(f - 1)]];
    if (sum > total - (heads - f) * (total / (5 * heads))) continue;
    full = f;
    full_total = sum;
  }
  HeadShares allotted{.shares = std::vector<int64_t>(sizes.size(), 0), .unsplit = full == 0};
  const auto rest = order.begin() + static_cast<ptrdiff_t>(full);
  for (auto u = order.begin(); u != rest; ++u) allotted.shares[*u] = sizes[*u];
  std::sort(rest, order.end());
  GiveInRounds(total - full_total, sizes, {rest, order.end()}, allotted.shares);
  return allotted;
}

}  // namespace

HeadShares AllotHeads(const HeadBudget& head, int32_t layer, const LayerCandidates& candidates, int64_t total,
                      const ParallelFor& parallel) {
  switch (head.kind) {
    case HeadBudget::Kind::kUniform:
      return {.shares = UniformShares(candidates.sizes, total)};
    case HeadBudget::Kind::kAdaFloor: {
      const std::vector<int64_t> floors = AdaFloors(head.alpha_ppm, candidates.sizes, total);
      JointSelection joint = SelectJointly(candidates.scores, floors, candidates.sizes, total, parallel);
      return {.shares = std::move(joint.counts), .key = joint.key};
    }
    case HeadBudget::Kind::kAdaBlend:
      return {.shares = BlendedShares(head.alpha_ppm, candidates, total, parallel)};
    case HeadBudget::Kind::kTable:
      return {.shares = TableShares(head.table_ppm[static_cast<size_t>(layer)], candidates.sizes, total)};
    case HeadBudget::Kind::kCheapest:
      return AllotCheapest(head.mass_ppm, candidates, total, parallel);
    case HeadBudget::Kind::kSplit:
      return AllotSplit(head.full_heads, candidates, total);
  }
  return {};
}

std::vector<int64_t> AdaFloors(int64_t alpha_ppm, std::span<const int64_t> sizes, int64_t total) {
  const int64_t floor = alpha_ppm * total / (kPpm * static_cast<int64_t>(sizes.size()));
  std::vector<int64_t> floors(sizes.begin(), sizes.end());
  for (int64_t& f : floors) f = std::min(f, floor);
  return floors;
}

}  // namespace kvsteward::engine
