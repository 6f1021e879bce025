// One stored number as float32, exactly, in device code.
#pragma once

#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>

#include "kvsteward/engine/tensor.h"

namespace kvsteward::engine::cuda {

template <DType kType>
__device__ __forceinline__ float FromHalfWord(uint16_t bits) {
  if constexpr (kType == DType::kBF16) return __uint_as_float(static_cast<uint32_t>(bits) << 16);
  return __half2float(__ushort_as_half(bits));
}

// Element `index` of the array at `data`, which is aligned to its elements.
template <DType kType>
__device__ __forceinline__ float Element(const std::byte* data, int64_t index) {
  if constexpr (kType == DType::kF32) {
    return reinterpret_cast<const float*>(data)[index];
  } else {
    return FromHalfWord<kType>(reinterpret_cast<const uint16_t*>(data)[index]);
  }
}

// Smallest atomically, whatever the order of the threads.
__device__ __forceinline__ void ReportBadToken(int64_t* bad, int32_t unit, int64_t token) {
  atomicMin(reinterpret_cast<long long*>(bad) + unit, static_cast<long long>(token));
}

}  // namespace kvsteward::engine::cuda
