// What device code says in PTX, or in words that only nvcc knows: each in one tiny function. Under the emulator for
// tests the same functions are written in C++ (tests/emulation/ptx.h).
#pragma once

#ifdef KVSTEWARD_CUDA_EMULATED
#include "tests/emulation/ptx.h"
#else

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace kvsteward::engine::cuda {

// The block's dynamic shared memory, aligned to 16 bytes.
__device__ __forceinline__ std::byte* SharedMemory() {
  extern __shared__ __align__(16) std::byte shared[];
  return shared;
}

// Words that other processors look at too, at system scope.
__device__ __forceinline__ uint64_t LoadRelaxed(const uint64_t* word) {
  uint64_t value;
  asm volatile("ld.relaxed.sys.u64 %0, [%1];" : "=l"(value) : "l"(word) : "memory");
  return value;
}
__device__ __forceinline__ void StoreRelease(uint64_t* word, uint64_t value) {
  asm volatile("st.release.sys.u64 [%0], %1;" ::"l"(word), "l"(value) : "memory");
}

// 2^x, 0 below 2^-126.
__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Copies 16 bytes to shared memory, or writes zeros if not `valid`; `from` is then not read. Both are aligned to 16.
__device__ __forceinline__ void CopyAsync(std::byte* to, const std::byte* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SharedAddress(to)), "l"(from), "r"(valid ? 16 : 0)
               : "memory");
}
// This thread's copies since the last call are a group.
__device__ __forceinline__ void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most `kPending` of this thread's groups are under way.
template <int kPending>
__device__ __forceinline__ void AwaitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// By a whole warp: four 8 x 8 matrices of 16-bit numbers; lane l gives row l % 8 of matrix l / 8 and gets numbers
// 2 (l % 4) and the next of row l / 4 of each. Rows lie in shared memory, aligned to 16 bytes.
__device__ __forceinline__ void LoadMatrices(const std::byte* row, uint32_t (&to)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(SharedAddress(row))
               : "memory");
}

// By a whole warp: adds 16 rows by 16 dimensions (a) times 16 dimensions by 8 columns (b) to rows l / 4 (`upper`) and
// l / 4 + 8 (`lower`), columns 2 (l % 4) and the next. bfloat16 or float16.
template <bool kBf16>
__device__ __forceinline__ void Multiply(const uint32_t (&a)[4], uint32_t b0, uint32_t b1, float* upper, float* lower) {
  if constexpr (kBf16) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(upper[0]), "+f"(upper[1]), "+f"(lower[0]), "+f"(lower[1])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(upper[0]), "+f"(upper[1]), "+f"(lower[0]), "+f"(lower[1])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

}  // namespace kvsteward::engine::cuda

#endif
