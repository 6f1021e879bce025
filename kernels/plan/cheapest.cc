#include "kernels/plan/cheapest.h"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <vector>

#include "kernels/plan/radix.h"

namespace kvsteward::engine {
namespace {

// The candidates that a head with room for `uniform` of them wants: none, `uniform` or all.
int64_t Demand(std::span<const float> scores, std::span<const float> attention, int64_t size, int64_t uniform,
               double mass) {
  const Cut cut = FindCut(scores, uniform);
  int64_t ties = cut.ties;
  double protected_sum = 0;
  double best_sum = 0;
  double candidate_sum = 0;
  for (size_t j = 0; j < scores.size(); ++j) {
    const int32_t key = KeyOf(scores[j]);
    if (key < 0) {
      protected_sum += attention[j];
      continue;
    }
    candidate_sum += attention[j];
    if (key > cut.key || (key == cut.key && ties-- > 0)) best_sum += attention[j];
  }
  const double enough = mass * (protected_sum + candidate_sum);
  if (protected_sum >= enough) return 0;
  return protected_sum + best_sum >= enough ? uniform : size;
}

}  // namespace

HeadShares AllotCheapest(int64_t mass_ppm, const LayerCandidates& candidates, int64_t total,
                         const ParallelFor& parallel) {
  const size_t heads = candidates.sizes.size();
  const double mass = static_cast<double>(mass_ppm) / 1e6;
  std::vector<int64_t> demands(heads);
  std::vector<int64_t> bases(heads);  // demands, but of heads that want all only what the uniform budget gives
  parallel(static_cast<int64_t>(heads), [&](int64_t head) {
    const auto u = static_cast<size_t>(head);
    const int64_t size = candidates.sizes[u];
    const int64_t uniform = std::min(total / static_cast<int64_t>(heads), size);
    demands[u] = Demand(candidates.scores[u], candidates.attention[u], size, uniform, mass);
    bases[u] = std::min(demands[u], uniform);
  });
  const auto sum = [](const std::vector<int64_t>& counts) {
    return std::accumulate(counts.begin(), counts.end(), int64_t{0});
  };

  JointSelection joint;
  if (sum(demands) <= total) {
    joint = SelectJointly(candidates.scores, demands, candidates.sizes, total, parallel);
  } else if (sum(bases) <= total) {
    joint = SelectJointly(candidates.scores, bases, demands, total, parallel);
  } else {
    joint = SelectJointly(candidates.scores, std::vector<int64_t>(heads, 0), bases, total, parallel);
  }
  return {.shares = std::move(joint.counts), .key = joint.key};
}

}  // namespace kvsteward::engine
