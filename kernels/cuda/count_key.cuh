// Counting the values of a digit in shared memory. Device code.
#pragma once

#include <cstdint>

namespace kvsteward::engine::cuda {

// By all lanes of a warp: adds the lanes that are `counted` to the counts of their `bin`. Scores are often alike: the
// lanes with the first one's value add once.
__device__ __forceinline__ void CountKey(uint32_t* counts, uint32_t bin, bool counted) {
  constexpr unsigned kAll = 0xffffffffu;
  const unsigned lanes = __ballot_sync(kAll, counted);
  if (lanes == 0) return;
  const int leader = __ffs(static_cast<int>(lanes)) - 1;
  const uint32_t leader_bin = __shfl_sync(kAll, bin, leader);
  const bool like_leader = counted && bin == leader_bin;
  const unsigned alike = __ballot_sync(kAll, like_leader);
  if (static_cast<int>(threadIdx.x % 32) == leader) {
    atomicAdd(&counts[bin], static_cast<uint32_t>(__popc(alike)));
  } else if (counted && !like_leader) {
    atomicAdd(&counts[bin], 1u);
  }
}

}  // namespace kvsteward::engine::cuda
