// Stages 6 and 7 of the reference: how many candidates stay in each layer, and in each kv head of a layer.
#pragma once

#include "tests/reference/reference.h"

namespace kvsteward::reference {

// Stage 6, all but `global`: candidates that stay, [layers], of `total`.
std::vector<int64_t> LayerTotals(const Policy& policy, int layers, int kv_heads, const std::vector<Emitted>& units,
                                 int64_t total);

// Stage 7: candidates that stay, [kv_heads], of the layer's `total`. `units`: the layer's.
std::vector<int64_t> HeadTotals(const Policy& policy, int layer, const std::vector<Emitted>& units, int64_t total,
                                bool* unsplit);

// Every unit the same, as far as it has them; what is left one at a time.
std::vector<int64_t> Uniform(const std::vector<int64_t>& caps, int64_t total);

// floor(alpha total / units) each, as far as the unit has them.
std::vector<int64_t> Floors(const Policy& policy, const std::vector<int64_t>& caps, int64_t total);

}  // namespace kvsteward::reference
