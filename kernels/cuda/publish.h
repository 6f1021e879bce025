// Rows of a sequence's table, written by the device: what kvsteward/shm.h describes and what a wave of compaction ends
// with. Nothing here owns memory.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/compact.h"

namespace kvsteward::engine::cuda {

// A kvs_sequence_table that was set up, as the device sees it: host memory that is mapped for it, or its own.
struct DeviceTable {
  std::byte* table = nullptr;  // the kvs_sequence_table itself; aligned to KVS_ALIGNMENT
  uint32_t units = 0;          // the table's, and so where its rows begin
  uint32_t row_capacity = 0;   // blocks
};

// For each unit of the wave: fills the row slot that is not valid with its blocks of `to`, as many as its kept tokens
// need, its kept_count and `base_tokens`; then makes it the valid one in one release store at system scope. What came
// before on the stream, the copy of the tokens above all, is seen by who sees the store.
// REQUIRES: the wave's units are the table's, its rows fit row_capacity, and nobody else writes the table meanwhile.
cudaError_t LaunchPublish(const DeviceTable& table, const DeviceWave& wave, int32_t base_tokens, cudaStream_t stream);

}  // namespace kvsteward::engine::cuda
