// Compaction on the device: the kept tokens of some units, with their positions, norms and running scores, copied in
// order to other blocks. Nothing here owns memory.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/views.h"

namespace kvsteward::engine::cuda {

// A wave: the units that move, and where to. Every pointer is device memory.
// Invariants: kept residents ascend and lie in [0, length); 0 <= kept_count <= most_kept and 16 * to_stride; 0 <=
// normed, scored <= length.
struct DeviceWave {
  int32_t count = 0;                    // units that move
  int32_t most_kept = 0;                // of their kept_count: bounds the grid
  const int32_t* unit = nullptr;        // [count] which of the DeviceUnits each one is; null: unit i is i
  const int32_t* kept = nullptr;        // the residents that stay: unit u's are kept[kept_begin[u]] and those behind it
  const int64_t* kept_begin = nullptr;  // [units]
  const int32_t* kept_count = nullptr;  // [units]
  const int32_t* normed = nullptr;      // [units] residents with a norm, the first ones; null: none has
  const int32_t* scored = nullptr;      // [units] residents with a running score, likewise
  const uint32_t* to = nullptr;         // [count][to_stride]: block k of the wave's unit i is to[i * to_stride + k]
  int32_t to_stride = 0;
};

// Every position becomes a stored one. Slots behind the last kept token are left as they are. Works for every
// block_bytes that is a multiple of 64, widest where pool.data and a token are aligned to 16 bytes.
// REQUIRES: no block of `to` is in it twice or is one of a unit's that moves.
cudaError_t LaunchCompact(const DevicePool& pool, const DeviceUnits& units, const DeviceWave& wave,
                          cudaStream_t stream);

}  // namespace kvsteward::engine::cuda
