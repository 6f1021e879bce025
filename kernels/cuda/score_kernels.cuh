// The two passes over keys, for any Source of logits. A Source holds what a CTA needs of one chunk of keys and one row
// block at a time:
//   Source(pass, unit, chunk begin, chunk end, shared memory)   called by all threads
//   void Start(row_block)                                       called by all threads, nothing else under way
//   const std::byte* NextTile(tile)                             called by all threads, tiles in order; a barrier
//   void Strip(const std::byte* tile, tile, lane, strip, logits)  called by whole warps
#pragma once

#include "kernels/cuda/launch.h"
#include "kernels/cuda/score_tile.cuh"

namespace kvsteward::engine::cuda {

template <class Source>
__global__ void __launch_bounds__(kScoreThreads, Source::kCtas) ReduceKernel(const __grid_constant__ ScorePass pass) {
  __shared__ float maxima[kBlockRows];  // of the second half of the keys
  __shared__ float sums[kBlockRows];
  const int32_t in_group = static_cast<int32_t>(blockIdx.y);
  const int32_t unit = pass.first_unit + in_group;
  const int32_t length = pass.units.length[unit];
  const int32_t chunk = static_cast<int32_t>(blockIdx.x) / pass.row_blocks;
  const int32_t row_block = static_cast<int32_t>(blockIdx.x) % pass.row_blocks;
  const int64_t begin = int64_t{chunk} * kChunkKeys;
  if (begin >= length) return;
  const auto first = static_cast<int32_t>(begin);
  const auto end = static_cast<int32_t>(min(begin + kChunkKeys, int64_t{length}));
  const int32_t tiles = (end - first + kTileKeys - 1) / kTileKeys;

  const Lane lane;
  const int64_t block_row = int64_t{in_group} * pass.padded_rows() + row_block * kBlockRows;
  const LaneTerms terms(pass.terms + block_row, lane);
  const bool idle = row_block * kBlockRows + lane.row_warp * kWarpRows >= pass.group * pass.head_rows;
  LaneSums lane_sums;
  Source source(pass, unit, first, end, SharedMemory());
  source.Start(row_block);
  for (int32_t tile = 0; tile < tiles; ++tile) {
    const std::byte* keys = source.NextTile(tile);
    if (idle) continue;  // the whole warp
    const int32_t at = first + tile * kTileKeys;
    const bool masked = terms.least_visible < at + kTileKeys;
#pragma unroll 1
    for (int strip = 0; strip < kStrips; ++strip) {
      Logits logits;
      source.Strip(keys, tile, lane, strip, &logits);
      const int32_t key = at + lane.key + strip * kStripKeys;
      const float check = masked ? lane_sums.Add<true>(logits, terms, key) : lane_sums.Add<false>(logits, terms, key);
      if (check != 0) ReportLogits(logits, terms, key, length, pass.bad, unit);
    }
  }

  lane_sums.MergeLanes();
  const bool second = static_cast<int32_t>(threadIdx.x) >= kScoreThreads / 2;
  static_assert(kKeyWarps == 2, "one half is merged into the other");
  if (second && lane.lane % 4 == 0) {
#pragma unroll
    for (int o = 0; o < kOctets; ++o) {
      maxima[lane.row + 8 * o] = lane_sums.max[o];
      sums[lane.row + 8 * o] = lane_sums.sum[o];
    }
  }
  __syncthreads();
  if (second || lane.lane % 4 != 0) return;
  const int64_t out = (int64_t{in_group} * pass.chunks + chunk) * pass.padded_rows() + row_block * kBlockRows;
#pragma unroll
  for (int o = 0; o < kOctets; ++o) {
    const int32_t row = lane.row + 8 * o;
    lane_sums.Merge(o, maxima[row], sums[row]);
    pass.chunk_max[out + row] = lane_sums.max[o];
    pass.chunk_sum[out + row] = lane_sums.sum[o];
  }
}

template <class Source, RowFold kFold>
__global__ void __launch_bounds__(kScoreThreads, Source::kCtas) FoldKernel(const __grid_constant__ ScorePass pass) {
  __shared__ SliceColumns<kFold> slices[2];  // of this tile and the one before
  __shared__ ChunkColumns columns;
  // Backwards: what pass 1 read last is still in L2.
  const int32_t in_group = pass.unit_count - 1 - static_cast<int32_t>(blockIdx.y);
  const int32_t unit = pass.first_unit + in_group;
  const int32_t length = pass.units.length[unit];
  const int64_t begin = int64_t{pass.chunks - 1 - static_cast<int32_t>(blockIdx.x)} * kChunkKeys;
  if (begin >= length) return;
  const auto first = static_cast<int32_t>(begin);
  const auto end = static_cast<int32_t>(min(begin + kChunkKeys, int64_t{length}));
  const int32_t tiles = (end - first + kTileKeys - 1) / kTileKeys;
  const auto thread = static_cast<int32_t>(threadIdx.x);

  const Lane lane;
  Source source(pass, unit, first, end, SharedMemory());
  for (int32_t row_block = 0; row_block < pass.row_blocks; ++row_block) {
    const LaneTerms terms(pass.terms + int64_t{in_group} * pass.padded_rows() + row_block * kBlockRows, lane);
    const bool idle = row_block * kBlockRows + lane.row_warp * kWarpRows >= pass.group * pass.head_rows;
    source.Start(row_block);
    // A tile's slices are written between its barrier and the next, and folded after that one, before the one after.
    for (int32_t tile = 0; tile < tiles; ++tile) {
      const std::byte* keys = source.NextTile(tile);
      if (tile > 0 && thread < kTileKeys) {
        columns.Add(pass, row_block, slices[(tile - 1) % 2], thread, (tile - 1) * kTileKeys + thread);
      }
      if (idle) continue;  // the whole warp
      const int32_t at = first + tile * kTileKeys;
      const bool masked = terms.least_visible < at + kTileKeys;
#pragma unroll 1
      for (int strip = 0; strip < kStrips; ++strip) {
        Logits logits;
        source.Strip(keys, tile, lane, strip, &logits);
        const int32_t in_tile = lane.key + strip * kStripKeys;
        SliceColumns<kFold>& out = slices[tile % 2];
        const float check = masked ? out.template Fold<true>(logits, terms, lane, in_tile, at + in_tile)
                                   : out.template Fold<false>(logits, terms, lane, in_tile, at + in_tile);
        if (check != 0) ReportLogits(logits, terms, at + in_tile, length, pass.bad, unit);
      }
    }
    __syncthreads();
    if (thread < kTileKeys) {
      columns.Add(pass, row_block, slices[(tiles - 1) % 2], thread, (tiles - 1) * kTileKeys + thread);
    }
    __syncthreads();  // before the next row block's first tile, or the columns leave
  }

  const int64_t out = pass.units.offset[unit] + first;
  for (int32_t key = thread; key < end - first; key += kScoreThreads) {
    pass.scores[out + key] = columns.total[key] * pass.factor;
    if (pass.attention != nullptr) pass.attention[out + key] = columns.attention[key] * pass.attention_factor;
  }
}

// Launches pass 1 or 2 with as much shared memory as the Source wants.
template <class Source>
cudaError_t LaunchReduce(const ScorePass& pass, cudaStream_t stream) {
  const int bytes = Source::SharedBytes(pass.head_dim);
  const cudaError_t error =
      cudaFuncSetAttribute(ReduceKernel<Source>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return error;
  const dim3 grid(static_cast<uint32_t>(pass.chunks) * static_cast<uint32_t>(pass.row_blocks),
                  static_cast<uint32_t>(pass.unit_count));
  return Launch(ReduceKernel<Source>, grid, kScoreThreads, static_cast<size_t>(bytes), stream, pass);
}

template <class Source, RowFold kFold>
cudaError_t LaunchFoldAs(const ScorePass& pass, cudaStream_t stream) {
  const int bytes = Source::SharedBytes(pass.head_dim);
  const cudaError_t error =
      cudaFuncSetAttribute(FoldKernel<Source, kFold>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return error;
  const dim3 grid(static_cast<uint32_t>(pass.chunks), static_cast<uint32_t>(pass.unit_count));
  return Launch(FoldKernel<Source, kFold>, grid, kScoreThreads, static_cast<size_t>(bytes), stream, pass);
}

template <class Source>
cudaError_t LaunchFold(const ScorePass& pass, RowFold fold, cudaStream_t stream) {
  switch (fold) {
    case RowFold::kSumSlices:
      return LaunchFoldAs<Source, RowFold::kSumSlices>(pass, stream);
    case RowFold::kSumOctets:
      return LaunchFoldAs<Source, RowFold::kSumOctets>(pass, stream);
    case RowFold::kMax:
      return LaunchFoldAs<Source, RowFold::kMax>(pass, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace kvsteward::engine::cuda
