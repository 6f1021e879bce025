// kernels/cuda/ptx.cuh in C++, from the PTX ISA's tables of fragments (not from what callers do with them).
#pragma once

#include <cuda_runtime.h>

#include <cfloat>
#include <cstddef>
#include <cstdint>

namespace kvsteward::emulation {

// By a whole warp. ldmatrix .x4 of 16-bit numbers: lane l gives the address of row l % 8 of matrix l / 8.
void LoadMatrices(const std::byte* row, uint32_t (&to)[4]);

// By a whole warp. mma .m16n8k16, row-major a, column-major b, float32 c and d; `c` is the lane's c0 to c3.
void Multiply(bool bf16, const uint32_t (&a)[4], const uint32_t (&b)[2], float (&c)[4]);

}  // namespace kvsteward::emulation

namespace kvsteward::engine::cuda {

inline std::byte* SharedMemory() { return emulation::DynamicShared(); }

inline uint64_t LoadRelaxed(const uint64_t* word) { return __atomic_load_n(KvsAligned(word), __ATOMIC_RELAXED); }
inline void StoreRelease(uint64_t* word, uint64_t value) {
  KvsAligned(word);
  __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

inline float Exp2(float x) {
  const float y = exp2f(fabsf(x) < FLT_MIN ? 0.0f : x);
  return y < FLT_MIN ? 0.0f : y;
}

inline void CopyAsync(std::byte* to, const std::byte* from, bool valid) {
  emulation::StartCopy(to, valid ? from : nullptr, 16);
}
inline void CommitCopies() { emulation::CommitCopies(); }
template <int kPending>
void AwaitCopies() {
  emulation::AwaitCopies(kPending);
}

inline void LoadMatrices(const std::byte* row, uint32_t (&to)[4]) { emulation::LoadMatrices(row, to); }

template <bool kBf16>
void Multiply(const uint32_t (&a)[4], uint32_t b0, uint32_t b1, float* upper, float* lower) {
  float c[4] = {upper[0], upper[1], lower[0], lower[1]};
  emulation::Multiply(kBf16, a, {b0, b1}, c);
  upper[0] = c[0];
  upper[1] = c[1];
  lower[0] = c[2];
  lower[1] = c[3];
}

}  // namespace kvsteward::engine::cuda
