#include "kernels/policy/allot.h"

#include <algorithm>
#include <cstddef>
#include <numeric>

#include "kernels/policy/radix.h"

namespace kvsteward::engine {
namespace {

// Hands out `left` one at a time, in rounds that visit, in `order`, those below their cap; whole rounds go at once.
// REQUIRES: left <= sum of (caps - shares).
void GiveInRounds(int64_t left, std::span<const int64_t> caps, std::span<const size_t> order,
                  std::vector<int64_t>& shares) {
  while (left > 0) {
    int64_t open = 0;
    int64_t least_room = left;
    for (size_t i = 0; i < caps.size(); ++i) {
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

std::vector<int64_t> Sizes(std::span<const std::span<const float>> candidates) {
  std::vector<int64_t> sizes;
  for (const auto& unit : candidates) sizes.push_back(static_cast<int64_t>(unit.size()));
  return sizes;
}

// The joint selection of `total` with floors: each unit's own best floors[u], then the best of the rest, ties to the
// lower head.
std::vector<int64_t> JointShares(std::span<const std::span<const float>> candidates, std::span<const int64_t> floors,
                                 int64_t total) {
  const Cut cut = FindCut(candidates, floors, total);
  std::vector<int64_t> shares(candidates.size());
  for (size_t u = 0; u < shares.size(); ++u) {
    shares[u] = std::max(floors[u], cut.above[u]);
    total -= shares[u];
  }
  for (size_t u = 0; u < shares.size(); ++u) {
    const int64_t given = std::clamp<int64_t>(cut.above[u] + cut.equal[u] - shares[u], 0, total);
    shares[u] += given;
    total -= given;
  }
  return shares;
}

std::vector<int64_t> UniformShares(std::span<const int64_t> caps, int64_t total) {
  std::vector<int64_t> shares(caps.size(), 0);
  GiveInRounds(total, caps, InOrder(caps.size()), shares);
  return shares;
}

// alpha of the uniform share, the rest by how the joint best fall: ((1 - alpha) c_u + alpha c), by largest remainder.
std::vector<int64_t> BlendedShares(std::span<const std::span<const float>> candidates, int64_t alpha_ppm,
                                   int64_t total) {
  const auto heads = static_cast<int64_t>(candidates.size());
  const std::vector<int64_t> caps = Sizes(candidates);
  const std::vector<int64_t> joint = JointShares(candidates, std::vector<int64_t>(candidates.size(), 0), total);
  const int64_t denominator = kPpm * heads;  // all terms over it, they stay below 1e6 * 4096 * 2^31 < 2^63
  std::vector<int64_t> shares;
  std::vector<int64_t> remainders;
  for (size_t u = 0; u < caps.size(); ++u) {
    const int64_t numerator = (kPpm - alpha_ppm) * joint[u] * heads + alpha_ppm * total;
    shares.push_back(std::min(numerator / denominator, caps[u]));
    remainders.push_back(numerator % denominator);
  }
  std::vector<size_t> order = InOrder(caps.size());
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return remainders[a] > remainders[b]; });
  GiveInRounds(total - std::accumulate(shares.begin(), shares.end(), int64_t{0}), caps, order, shares);
  return shares;
}

}  // namespace

std::vector<int64_t> LayerShares(LayerBudget layer, std::span<const int64_t> caps, int64_t total) {
  total = std::min(total, std::accumulate(caps.begin(), caps.end(), int64_t{0}));
  switch (layer) {
    case LayerBudget::kUniform:
      return UniformShares(caps, total);
  }
  return {};
}

std::vector<int64_t> HeadShares(const HeadBudget& head, std::span<const std::span<const float>> candidates,
                                int64_t total) {
  switch (head.kind) {
    case HeadBudget::Kind::kUniform:
      return UniformShares(Sizes(candidates), total);
    case HeadBudget::Kind::kAdaFloor: {
      std::vector<int64_t> floors = Sizes(candidates);
      const int64_t floor = head.alpha_ppm * total / (kPpm * static_cast<int64_t>(candidates.size()));
      for (int64_t& f : floors) f = std::min(f, floor);
      return JointShares(candidates, floors, total);
    }
    case HeadBudget::Kind::kAdaBlend:
      return BlendedShares(candidates, head.alpha_ppm, total);
  }
  return {};
}

}  // namespace kvsteward::engine
