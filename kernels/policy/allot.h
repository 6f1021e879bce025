// Stages 6 and 7: how many candidates each layer, and each kv head of a layer, keeps. Integer arithmetic throughout.
// Stateless; thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {

// Stage 6: the candidates that each layer keeps; caps[l] is how many it has. They sum to min(total, sum of caps).
std::vector<int64_t> LayerShares(LayerBudget layer, std::span<const int64_t> caps, int64_t total);

// Stage 7: the candidates that each kv head of a layer keeps, given the scores of its candidates. They sum to `total`.
// REQUIRES: 0 <= total <= the number of candidates; no negative score; at most 4096 heads.
std::vector<int64_t> HeadShares(const HeadBudget& head, std::span<const std::span<const float>> candidates,
                                int64_t total);

}  // namespace kvsteward::engine
