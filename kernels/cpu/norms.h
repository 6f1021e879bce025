// Value norms of residents: computed once, cached in the pool, read by refinements. Stateless.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "kernels/cpu/thread_pool.h"
#include "kvsteward/engine/paged.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine::cpu {

// Writes the norms that the layer's residents do not have yet to the pool. INVALID_ARGUMENT naming the first value
// whose norm is not finite. REQUIRES: `kind` is kL2Squared or kL1.
absl::Status FillNorms(const SequenceView& sequence, int32_t layer, Norm kind, ThreadPool& threads);

// The norms of residents [begin, begin + out.size()) from the pool, which holds the kind that `norm` is made from.
// REQUIRES: `begin` is a multiple of a block's tokens.
void LoadNorms(const PoolView& pool, const UnitView& unit, Norm norm, int32_t begin, std::span<float> out);

}  // namespace kvsteward::engine::cpu
