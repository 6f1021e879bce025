// The head budget `cheapest` (FastGen): every head keeps the smallest of a few nested sets that holds enough of its
// attention. Stateless; thread-safe.
#pragma once

#include <cstdint>

#include "kernels/plan/allot.h"

namespace kvsteward::engine {

// As AllotHeads. What a head wants is nothing beside its protected tokens, its best floor(c), or all it has: the first
// that holds `mass_ppm` of the attention of its residents. What is left over goes to the jointly best; what is missing
// is taken from heads that want all, then from the rest, lowest scores first.
HeadShares AllotCheapest(int64_t mass_ppm, const LayerCandidates& candidates, int64_t total,
                         const ParallelFor& parallel);

}  // namespace kvsteward::engine
