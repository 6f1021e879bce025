// From the runs of the units' rows to DeviceUnits::blocks. Stateless; all memory is the caller's.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "base/run.h"
#include "kernels/cuda/views.h"

namespace kvsteward::engine::cuda {

// Writes the blocks of each unit's residents, blocks[u * block_stride + i] for i < ceil(length / 16); what lies behind
// them is left as it is. Unit u's row is runs[run_offset[u]] to runs[run_offset[u + 1]], empty runs allowed.
// `units.blocks` is not read: `blocks` is what it will be.
// REQUIRES: the runs hold at least the unit's residents; ceil(longest / 16) <= block_stride.
cudaError_t LaunchExpandRows(const Run* runs, const int64_t* run_offset, const DeviceUnits& units, uint32_t* blocks,
                             cudaStream_t stream);

}  // namespace kvsteward::engine::cuda
