// Rows to block tables: a CTA takes a stretch of one unit's blocks and finds the run of each by bisection.
#include "kernels/cuda/rows.h"

#include "kernels/cuda/launch.h"
#include "kvsteward/engine/tensor.h"

namespace kvsteward::engine::cuda {
namespace {

constexpr int kThreads = 256;
constexpr uint32_t kStretch = 4096;  // blocks of a unit that one CTA writes

__global__ void __launch_bounds__(kThreads)
    ExpandRows(const Run* runs, const int64_t* run_offset, DeviceUnits units, uint32_t* blocks) {
  __shared__ uint32_t ends[kThreads];    // of the runs at hand, in blocks from the first of them
  __shared__ uint32_t firsts[kThreads];  // their first pool blocks
  const int32_t unit = static_cast<int32_t>(blockIdx.y);
  const uint32_t needed = (static_cast<uint32_t>(units.length[unit]) + kBlockTokens - 1) / kBlockTokens;
  const uint32_t from = blockIdx.x * kStretch;
  const uint32_t to = min(needed, from + kStretch);
  if (from >= to) return;
  uint32_t* out = blocks + static_cast<int64_t>(unit) * units.block_stride;
  uint32_t done = 0;  // blocks in the runs before those at hand
  for (int64_t run = run_offset[unit]; run < run_offset[unit + 1] && done < to; run += kThreads) {
    const int64_t mine = run + threadIdx.x;
    Run at = {0, 0};
    if (mine < run_offset[unit + 1]) at = runs[mine];
    // More than the unit needs is as good as what it needs; so nothing overflows.
    ends[threadIdx.x] = min(at.count, needed);
    firsts[threadIdx.x] = at.first;
    __syncthreads();
    for (int step = 1; step < kThreads; step *= 2) {  // inclusive sums
      const uint32_t before = threadIdx.x >= step ? ends[threadIdx.x - step] : 0;
      __syncthreads();
      ends[threadIdx.x] = min(ends[threadIdx.x] + before, needed);
      __syncthreads();
    }
    const uint32_t here = ends[kThreads - 1];
    const uint32_t begin = max(from, done);
    const uint32_t end = min(to, done + here);
    for (uint32_t block = begin + threadIdx.x; block < end; block += kThreads) {
      const uint32_t index = block - done;
      int low = 0;  // the first run that ends beyond `index`
      for (int high = kThreads - 1; low < high;) {
        const int middle = (low + high) / 2;
        if (ends[middle] > index) {
          high = middle;
        } else {
          low = middle + 1;
        }
      }
      out[block] = firsts[low] + (index - (low == 0 ? 0 : ends[low - 1]));
    }
    done += here;
    __syncthreads();  // before the next runs replace these
  }
}

}  // namespace

cudaError_t LaunchExpandRows(const Run* runs, const int64_t* run_offset, const DeviceUnits& units, uint32_t* blocks,
                             cudaStream_t stream) {
  if (units.units <= 0 || units.longest <= 0) return cudaSuccess;
  if (units.units > kMostGridUnits) {
    const cudaError_t error = LaunchExpandRows(runs, run_offset, Slice(units, 0, kMostGridUnits), blocks, stream);
    if (error != cudaSuccess) return error;
    return LaunchExpandRows(runs, run_offset + kMostGridUnits,
                            Slice(units, kMostGridUnits, units.units - kMostGridUnits),
                            blocks + int64_t{kMostGridUnits} * units.block_stride, stream);
  }
  const uint32_t most = (static_cast<uint32_t>(units.longest) + kBlockTokens - 1) / kBlockTokens;
  const dim3 grid((most + kStretch - 1) / kStretch, static_cast<uint32_t>(units.units));
  return Launch(ExpandRows, grid, kThreads, 0, stream, runs, run_offset, units, blocks);
}

}  // namespace kvsteward::engine::cuda
