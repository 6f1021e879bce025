// The selection `top_k_random` (NACL): a part of what stays is drawn, with odds that grow with the score. Stateless;
// thread-safe.
#pragma once

#include <cstdint>
#include <span>

#include "kvsteward/engine/paged.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {

// Sets the bits of `share` candidates: of floor(fraction share) drawn ones, and before them of the best. The draw is a
// function of seed, layer, head and each token's position (Philox, Gumbel's trick). `scores`: a row as in scan.h.
// REQUIRES: the marks' bits, and no others, are set; the row has `share` candidates.
void KeepTopKRandom(const Select& select, const PoolView& pool, const UnitView& unit, int32_t layer, int32_t head,
                    std::span<const float> scores, int64_t share, std::span<uint64_t> mask);

}  // namespace kvsteward::engine
