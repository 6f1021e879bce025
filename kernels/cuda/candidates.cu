// One thread per unit: positions ascend, so the first that is no sink is found by halving.
#include "kernels/cuda/candidates.h"

#include "kernels/cuda/launch.h"

namespace kvsteward::engine::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void FindCandidates(DevicePool pool, DeviceUnits units, int32_t sinks, int64_t recent,
                               DeviceCandidates candidates) {
  const int64_t thread = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (thread >= units.units) return;
  const auto unit = static_cast<int32_t>(thread);
  const int32_t length = units.length[unit];
  const int32_t stored = units.stored[unit];
  const auto end = static_cast<int32_t>(length > recent ? length - recent : 0);

  // Positions are distinct and start at 0: at most `sinks` tokens can be sinks.
  const uint32_t* blocks = units.blocks + int64_t{unit} * units.block_stride;
  const int32_t stored_end = min(end, stored);
  int32_t begin = 0;
  for (int32_t limit = min(stored_end, max(sinks, 0)); begin < limit;) {  // the first that is none is in [begin, limit]
    const int32_t middle = begin + (limit - begin) / 2;
    const int64_t slot = int64_t{blocks[middle / kBlockTokens]} * kBlockTokens + middle % kBlockTokens;
    if (pool.positions[slot] < sinks) {
      begin = middle + 1;
    } else {
      limit = middle;
    }
  }
  if (begin == stored_end && begin < end) {  // appended tokens: consecutive positions
    const int64_t more = int64_t{sinks} - units.appended_position[unit];
    begin += static_cast<int32_t>(max(int64_t{0}, min(more, int64_t{end} - begin)));
  }
  candidates.begin[unit] = begin;
  candidates.end[unit] = end;
}

}  // namespace

cudaError_t LaunchCandidates(const DevicePool& pool, const DeviceUnits& units, int32_t sinks, int64_t recent,
                             const DeviceCandidates& candidates, cudaStream_t stream) {
  if (units.units == 0) return cudaSuccess;
  if (units.units < 0 || recent < 0) return cudaErrorInvalidValue;
  const auto grid = static_cast<unsigned>((int64_t{units.units} + kThreads - 1) / kThreads);
  return Launch(FindCandidates, grid, kThreads, 0, stream, pool, units, sinks, recent, candidates);
}

}  // namespace kvsteward::engine::cuda
