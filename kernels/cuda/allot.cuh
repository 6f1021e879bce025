// How many candidates each head of a layer keeps, where that is not decided by a joint cut: plan/allot.cc on the
// device, one thread block per layer.
#pragma once

#include <cstdint>

#include "kernels/cuda/radix.h"

namespace kvsteward::engine::cuda {

inline constexpr int64_t kOne = 1'000'000;  // as kPpm
inline constexpr int32_t kFewHeads = 256;   // the arrays of so many are in shared memory

// [heads] each.
struct Allotment {
  int64_t* caps;
  int64_t* shares;
  int32_t* order;
};

// Called by all threads of the block, once.
__device__ inline Allotment AllotmentOf(const SelectWork& work) {
  __shared__ int64_t caps[kFewHeads];
  __shared__ int64_t shares[kFewHeads];
  __shared__ int32_t order[kFewHeads];
  if (work.heads <= kFewHeads) return {caps, shares, order};
  const int64_t first = int64_t{blockIdx.x} * work.heads;
  return {work.caps + first, work.shares + first, work.order + first};
}

// By one thread. Hands out `left` one at a time, in rounds that visit, in order, the heads below their cap; whole
// rounds go at once. It ends early if there is nobody to give to.
__device__ inline void GiveInRounds(int64_t left, int32_t heads, const Allotment& allotment) {
  while (left > 0) {
    int64_t open = 0;
    int64_t least_room = left;
    for (int32_t i = 0; i < heads; ++i) {
      const int32_t head = allotment.order[i];
      const int64_t room = allotment.caps[head] - allotment.shares[head];
      if (room == 0) continue;
      ++open;
      least_room = min(least_room, room);
    }
    if (open == 0) return;
    const int64_t rounds = max(int64_t{1}, min(least_room, left / open));
    for (int32_t i = 0; i < heads && left > 0; ++i) {
      const int32_t head = allotment.order[i];
      if (allotment.shares[head] == allotment.caps[head]) continue;
      const int64_t given = min(rounds, left);
      allotment.shares[head] += given;
      left -= given;
    }
  }
}

// By all threads of the block: the bounds of the layer's cuts, from their sizes.
__device__ inline void AllotUniform(const SelectWork& work, UnitCut* cuts, int64_t total) {
  const Allotment allotment = AllotmentOf(work);
  for (auto head = static_cast<int32_t>(threadIdx.x); head < work.heads; head += static_cast<int32_t>(blockDim.x)) {
    allotment.caps[head] = cuts[head].size;
    allotment.shares[head] = 0;
    allotment.order[head] = head;
  }
  __syncthreads();
  if (threadIdx.x == 0) GiveInRounds(total, work.heads, allotment);
  __syncthreads();
  for (auto head = static_cast<int32_t>(threadIdx.x); head < work.heads; head += static_cast<int32_t>(blockDim.x)) {
    cuts[head].bound = static_cast<int32_t>(allotment.shares[head]);
  }
}

// By all threads of the block: the bounds, from the shares that the joint selection gave: floor and cap first, then
// what is left by descending remainder.
__device__ inline void AllotBlend(const SelectWork& work, UnitCut* cuts, int64_t total) {
  const Allotment allotment = AllotmentOf(work);
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const auto threads = static_cast<int32_t>(blockDim.x);
  const int64_t alpha = work.rule.alpha_ppm;
  const int64_t denominator = kOne * work.heads;
  const auto numerator = [&](int32_t head) {  // below 1e6 * 4096 * 2^31 < 2^63
    return (kOne - alpha) * cuts[head].share * work.heads + alpha * total;
  };
  int64_t* remainders = allotment.caps;  // until they are in order
  for (int32_t head = thread; head < work.heads; head += threads) remainders[head] = numerator(head) % denominator;
  __syncthreads();
  for (int32_t head = thread; head < work.heads; head += threads) {
    int32_t rank = 0;
    for (int32_t other = 0; other < work.heads; ++other) {
      const bool before =
          remainders[other] > remainders[head] || (remainders[other] == remainders[head] && other < head);
      rank += before ? 1 : 0;
    }
    allotment.order[rank] = head;
  }
  __syncthreads();
  for (int32_t head = thread; head < work.heads; head += threads) {
    allotment.caps[head] = cuts[head].size;
    allotment.shares[head] = min(numerator(head) / denominator, int64_t{cuts[head].size});
  }
  __syncthreads();
  if (thread == 0) {
    int64_t left = total;
    for (int32_t head = 0; head < work.heads; ++head) left -= allotment.shares[head];
    GiveInRounds(left, work.heads, allotment);
  }
  __syncthreads();
  for (int32_t head = thread; head < work.heads; head += threads) {
    cuts[head].bound = static_cast<int32_t>(allotment.shares[head]);
  }
}

}  // namespace kvsteward::engine::cuda
