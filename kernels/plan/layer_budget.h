// Stage 6: how many candidates each layer keeps. Float64 in a fixed order where scores decide, then integers.
// Stateless; thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kvsteward/engine/engine.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {

// `uniform`, `table`, `pyramid` and, with `entropies` [layers] from LayerEntropy, `entropy`: the candidates that each
// layer keeps; caps[l] is how many it has. They sum to min(total, sum of caps). With the group over the layer, pass
// caps and total per kv head.
std::vector<int64_t> LayerShares(const LayerBudget& layer, std::span<const int64_t> caps, int64_t total,
                                 int64_t kv_heads, std::span<const double> entropies);

// The entropy of a layer's candidate scores over its maximum, -sum p ln p / ln(candidates), in (head, position) order;
// 0 for fewer than 2 candidates and without mass.
double LayerEntropy(const LayerScores& scores);

// The part of a layer's candidate score that its highest j * kv_heads candidates hold, for every j at which it has
// more; without mass the part of the steps.
std::vector<double> HeldByHighest(const LayerScores& scores, int64_t kv_heads);

// `equal_mass`, as LayerShares: a step takes `kv_heads` candidates of the layer that holds least so far. held[l] is
// HeldByHighest of layer l.
std::vector<int64_t> EqualMassShares(std::span<const std::vector<double>> held, std::span<const int64_t> caps,
                                     int64_t total, int64_t kv_heads);

// `global`: the candidates that each unit of the sequence keeps, [layers][kv_heads]: each unit's best
// floor(alpha total / units), as far as it has them, then the jointly best.
std::vector<std::vector<int64_t>> GlobalShares(std::span<const LayerScores> layers, int64_t alpha_ppm, int64_t total);

}  // namespace kvsteward::engine
