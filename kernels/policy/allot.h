// Stage 7: how many candidates each kv head of a layer keeps. Integer arithmetic, float64 where a method needs shares
// of attention, in a fixed order. Stateless; thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {

// Of one layer, [kv_heads] each. What a method does not read may be empty.
struct LayerCandidates {
  std::span<const std::span<const float>> scores;     // of the candidates, in order of position
  std::span<const std::span<const float>> attention;  // of the candidates (`cheapest`)
  std::span<const double> protected_attention;        // sum over the protected tokens (`cheapest`)
  std::span<const double> distance;                   // `split`
};

// The candidates that each kv head keeps. They sum to `total`. `unsplit`: `split` found room for no full head.
// REQUIRES: 0 <= total <= the number of candidates; no negative score; at most 4096 heads; a table fits the layer.
std::vector<int64_t> HeadShares(const HeadBudget& head, int32_t layer, const LayerCandidates& candidates, int64_t total,
                                bool* unsplit);

// The joint selection of `total` with floors, as candidates per unit: each unit's own best floors[u], then the best of
// the rest, ties to the lower unit. REQUIRES: sum of floors <= total <= the number of candidates; floors within the
// units.
std::vector<int64_t> JointShares(std::span<const std::span<const float>> candidates, std::span<const int64_t> floors,
                                 int64_t total);

}  // namespace kvsteward::engine
