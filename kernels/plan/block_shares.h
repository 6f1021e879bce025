// The selection `block` (KV-Compress): a head's candidates are given up by the block, and each block has a price, so
// that what is given up frees memory at once. Stateless; thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/plan/parallel.h"

namespace kvsteward::engine {

// The candidates that each kv head keeps: from all of them, the cheapest blocks go until no more than `total` stay, at
// most 15 fewer. A head's candidates go by ascending score; its first block goes with as many of them as fill its last
// block, every further one with 16, at the price of the last that goes. Of equal prices the higher head's block goes
// first. Heads stay at or above their floors as long as blocks above them last; then single tokens go.
// `scores`: rows as in scan.h, of all residents; `sizes` and `floors`: [kv_heads] of candidates.
std::vector<int64_t> BlockShares(std::span<const std::span<const float>> scores, std::span<const int64_t> sizes,
                                 std::span<const int64_t> floors, int64_t total, const ParallelFor& parallel);

}  // namespace kvsteward::engine
