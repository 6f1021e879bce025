// A warp publishes a unit. The table may be the host's memory: rows go out as whole words side by side, and the only
// thing read from there is the unit's word.
#include <algorithm>

#include "client/include/kvsteward/shm.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/publish.h"
#include "kvsteward/engine/tensor.h"

namespace kvsteward::engine::cuda {
namespace {

constexpr int kWarpLanes = 32;
constexpr int64_t kMostGrid = 1 << 16;

static_assert(KVS_BLOCK_TOKENS == kBlockTokens);
static_assert(sizeof(kvs_row) == 4 * sizeof(uint32_t), "row_len, base_tokens, blocks, reserved");

__global__ void __launch_bounds__(kWarpLanes)
    PublishKernel(std::byte* table, uint64_t rows_offset, uint64_t row_stride, DeviceWave wave, uint32_t base_tokens) {
  const auto lane = static_cast<int32_t>(threadIdx.x);
  for (int64_t i = blockIdx.x; i < wave.count; i += gridDim.x) {
    const auto unit = static_cast<int64_t>(wave.unit == nullptr ? i : wave.unit[i]);
    const int32_t kept = wave.kept_count[unit];
    const int32_t blocks = (kept + (kBlockTokens - 1)) / kBlockTokens;
    auto* const word = reinterpret_cast<uint64_t*>(table + sizeof(kvs_sequence_table)) + unit;
    const uint64_t now = LoadRelaxed(word);  // the same for all lanes: it changes only after the barrier below
    const uint64_t other = ~now & 1;
    auto* const row =
        reinterpret_cast<uint32_t*>(table + rows_offset + (2 * static_cast<uint64_t>(unit) + other) * row_stride);
    // The fields of kvs_row, then its entries.
    if (lane == 0) row[0] = static_cast<uint32_t>(kept);
    if (lane == 1) row[1] = base_tokens;
    if (lane == 2) row[2] = static_cast<uint32_t>(blocks);
    if (lane == 3) row[3] = 0;
    const uint32_t* const to = wave.to + i * wave.to_stride;
    for (int32_t k = lane; k < blocks; k += kWarpLanes) row[4 + k] = to[k];
    __threadfence_system();  // every lane's entries are out before the one lane's store below
    __syncwarp();
    // The version is all bits but the lowest; the lowest is the slot.
    if (lane == 0) StoreRelease(word, (((now >> 1) + 1) << 1) | other);
  }
}

}  // namespace

cudaError_t LaunchPublish(const DeviceTable& table, const DeviceWave& wave, int32_t base_tokens, cudaStream_t stream) {
  if (wave.count <= 0) return cudaSuccess;
  const auto grid = static_cast<unsigned>(std::min<int64_t>(wave.count, kMostGrid));
  return Launch(PublishKernel, grid, kWarpLanes, 0, stream, table.table, kvs_rows_offset(table.units),
                kvs_row_stride(table.row_capacity), wave, static_cast<uint32_t>(base_tokens));
}

}  // namespace kvsteward::engine::cuda
