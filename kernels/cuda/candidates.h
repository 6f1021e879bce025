// Stage 5 on the device: which residents of each unit compete. Sinks are a head and recent tokens a tail of the unit,
// as in plan/protect.h; flagged and pinned tokens are not looked for here. Nothing here owns memory.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/views.h"

namespace kvsteward::engine::cuda {

// The candidates of all units: residents [begin[u], end[u]) of unit u. Device memory, [units].
// Invariants: 0 <= begin <= end <= length.
struct DeviceCandidates {
  int32_t* begin = nullptr;
  int32_t* end = nullptr;
};

// Fills `candidates`. Protected are residents at positions below `sinks` and the last `recent` ones, however many that
// is for the sequence's budget. REQUIRES: positions of a unit ascend.
cudaError_t LaunchCandidates(const DevicePool& pool, const DeviceUnits& units, int32_t sinks, int64_t recent,
                             const DeviceCandidates& candidates, cudaStream_t stream);

}  // namespace kvsteward::engine::cuda
