// What `split` compares heads by: each unit's summary of its best values. Stateless.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/cpu/thread_pool.h"
#include "kvsteward/engine/paged.h"

namespace kvsteward::engine::cpu {

// distance[u] = || v_u - mean over the layer's units of v ||, where v = sum of C_j V_j over the unit's 256 residents of
// highest C (ties: lower position) and C = `attention` averaged over 7 neighbours, padded. In float64, in order of
// position. `attention`: of the layer's residents, units one after the other. INVALID_ARGUMENT naming the first value
// that is not finite.
absl::Status SummaryDistances(const SequenceView& sequence, int32_t layer, std::span<const float> attention,
                              ThreadPool& threads, std::vector<double>* distance);

}  // namespace kvsteward::engine::cpu
