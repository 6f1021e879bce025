// A warp moves eight tokens at a time. Its first lanes look up where the tokens lie and go, a token each, and move the
// side arrays; then all lanes copy rows of K and V, several loads in flight before the first store.
#include <algorithm>
#include <cstddef>

#include "kernels/cuda/compact.h"
#include "kernels/cuda/launch.h"

namespace kvsteward::engine::cuda {
namespace {

constexpr int kWarpLanes = 32;
constexpr int kWarps = 8;               // of a thread block
constexpr int kWarpTokens = 8;          // whose addresses a warp looks up at once
constexpr int kLoads = 8;               // in flight per lane
constexpr int64_t kMostGrid = 1 << 16;  // thread blocks; more work than that is done in turns
constexpr int64_t kMostGridUnits = 1 << 15;

// Everything a thread block must know, by value: constant memory.
struct Work {
  DevicePool pool;
  DeviceUnits units;
  DeviceWave wave;
  int32_t row_vectors;  // vectors of one token's K, which is as long as its V
  int32_t group_shift;  // log2 of the lanes that copy a row together
};

// Looks up a kept token, moves its side arrays, and tells the byte offsets of its K.
__device__ void MoveSides(const Work& work, int32_t wave_unit, int32_t unit, int32_t place, int64_t* from,
                          int64_t* to) {
  const int32_t token = work.wave.kept[work.wave.kept_begin[unit] + place];
  const int64_t source_block = work.units.blocks[int64_t{unit} * work.units.block_stride + token / kBlockTokens];
  const int64_t target_block = work.wave.to[int64_t{wave_unit} * work.wave.to_stride + place / kBlockTokens];
  const int64_t source_slot = token % kBlockTokens;
  const int64_t target_slot = place % kBlockTokens;
  const auto block_bytes = static_cast<int64_t>(work.pool.block_bytes);
  const int64_t token_bytes = block_bytes / (2 * kBlockTokens);
  *from = source_block * block_bytes + source_slot * token_bytes;
  *to = target_block * block_bytes + target_slot * token_bytes;

  const int64_t source = source_block * kBlockTokens + source_slot;
  const int64_t target = target_block * kBlockTokens + target_slot;
  const int32_t stored = work.units.stored[unit];
  work.pool.positions[target] =
      token < stored ? work.pool.positions[source] : work.units.appended_position[unit] + (token - stored);
  if (work.wave.normed != nullptr && token < work.wave.normed[unit]) {
    work.pool.norms[target] = work.pool.norms[source];
  }
  if (work.wave.scored != nullptr && token < work.wave.scored[unit]) {
    work.pool.running[target] = work.pool.running[source];
  }
}

// Copies the K and V of `tokens` tokens. Row r is K (even) or V (odd) of token r / 2.
template <class Vector>
__device__ void MoveRows(const Work& work, int32_t tokens, const int64_t* from, const int64_t* to) {
  const int lane = threadIdx.x % kWarpLanes;
  const int group_lanes = 1 << work.group_shift;
  const int groups = kWarpLanes >> work.group_shift;
  const int rows = 2 * tokens;
  const auto half_bytes = static_cast<int64_t>(work.pool.block_bytes / 2);
  for (int column = lane & (group_lanes - 1); column < work.row_vectors; column += group_lanes) {
    const int64_t column_bytes = column * static_cast<int64_t>(sizeof(Vector));
    for (int first = lane >> work.group_shift; first < rows; first += kLoads * groups) {
      Vector loaded[kLoads];
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const int row = first + i * groups;
        if (row < rows) {
          const std::byte* source = work.pool.data + from[row / 2] + (row % 2) * half_bytes + column_bytes;
          loaded[i] = __ldcs(reinterpret_cast<const Vector*>(source));  // read once: what it displaces is worth more
        }
      }
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const int row = first + i * groups;
        if (row < rows) {
          std::byte* target = work.pool.data + to[row / 2] + (row % 2) * half_bytes + column_bytes;
          *reinterpret_cast<Vector*>(target) = loaded[i];
        }
      }
    }
  }
}

template <class Vector>
__global__ void __launch_bounds__(kWarps* kWarpLanes) CompactKernel(const __grid_constant__ Work work) {
  __shared__ int64_t from[kWarps][kWarpTokens];  // byte offsets in the pool of the warp's tokens' K
  __shared__ int64_t to[kWarps][kWarpTokens];
  const int warp = threadIdx.x / kWarpLanes;
  const int lane = threadIdx.x % kWarpLanes;
  // Neither loop's bounds depend on the lane: a warp stays together.
  for (int32_t i = blockIdx.y; i < work.wave.count; i += gridDim.y) {
    const int32_t unit = work.wave.unit == nullptr ? i : work.wave.unit[i];
    const int32_t kept = work.wave.kept_count[unit];
    for (int64_t first = (int64_t{blockIdx.x} * kWarps + warp) * kWarpTokens; first < kept;
         first += int64_t{gridDim.x} * kWarps * kWarpTokens) {
      const auto tokens = static_cast<int32_t>(kept - first < kWarpTokens ? kept - first : kWarpTokens);
      if (lane < tokens) {
        MoveSides(work, i, unit, static_cast<int32_t>(first) + lane, &from[warp][lane], &to[warp][lane]);
      }
      __syncwarp();
      MoveRows<Vector>(work, tokens, from[warp], to[warp]);
      __syncwarp();  // before the next tokens' offsets replace these
    }
  }
}

template <class Vector>
cudaError_t LaunchWith(const DevicePool& pool, const DeviceUnits& units, const DeviceWave& wave, cudaStream_t stream) {
  Work work{pool, units, wave, static_cast<int32_t>(pool.block_bytes / (2 * kBlockTokens) / sizeof(Vector)), 0};
  while (work.group_shift < 5 && (1 << work.group_shift) < work.row_vectors) ++work.group_shift;
  constexpr int64_t kBlockWork = kWarps * kWarpTokens;
  const int64_t grid_units = std::min<int64_t>(wave.count, kMostGridUnits);
  const int64_t wanted = (wave.most_kept + kBlockWork - 1) / kBlockWork;
  const int64_t grid_tokens = std::max<int64_t>(1, std::min(wanted, kMostGrid / grid_units));
  const dim3 grid(static_cast<unsigned>(grid_tokens), static_cast<unsigned>(grid_units));
  return Launch(CompactKernel<Vector>, grid, kWarps * kWarpLanes, 0, stream, work);
}

}  // namespace

cudaError_t LaunchCompact(const DevicePool& pool, const DeviceUnits& units, const DeviceWave& wave,
                          cudaStream_t stream) {
  if (wave.count <= 0 || wave.most_kept <= 0) return cudaSuccess;
  const size_t token_bytes = pool.block_bytes / (2 * kBlockTokens);
  if (token_bytes == 0 || token_bytes % 2 != 0 || pool.block_bytes % (2 * kBlockTokens) != 0) {
    return cudaErrorInvalidValue;
  }
  // Blocks lie at multiples of 32 tokens' bytes, so what divides a token's bytes divides theirs.
  const size_t alignment = token_bytes | reinterpret_cast<uintptr_t>(pool.data);
  if (alignment % 16 == 0) return LaunchWith<uint4>(pool, units, wave, stream);
  if (alignment % 8 == 0) return LaunchWith<uint2>(pool, units, wave, stream);
  if (alignment % 4 == 0) return LaunchWith<unsigned int>(pool, units, wave, stream);
  if (alignment % 2 == 0) return LaunchWith<unsigned short>(pool, units, wave, stream);
  return cudaErrorMisalignedAddress;
}

}  // namespace kvsteward::engine::cuda
