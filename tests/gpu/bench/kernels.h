// Kernels that only the benchmark needs: what a device can do at most, numbers to measure with, and a pause on a
// stream. Stateless; all memory is the caller's.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace kvsteward::gpu_bench {

// Keeps the stream busy for about so long, so that what is launched behind it is all there when it begins.
cudaError_t LaunchPause(double us, cudaStream_t stream);

// Reads `bytes`, a multiple of 16, `times` times over. `sink`: one word, written if the sum is a certain number.
cudaError_t LaunchRead(const void* data, size_t bytes, int times, uint32_t* sink, cudaStream_t stream);

// Copies `bytes`, a multiple of 16.
cudaError_t LaunchCopy(const void* from, void* to, size_t bytes, cudaStream_t stream);

// bf16 products of 16 x 8 x 16 out of registers, a multiple of `flops()` in all. As LaunchRead's, `sink`.
struct MmaLoop {
  int blocks = 0;
  int iterations = 0;

  double flops() const;
};
cudaError_t LaunchMma(const MmaLoop& loop, uint32_t* sink, cudaStream_t stream);

// bf16 numbers of about standard normal size, the same that torch_side.py makes: number i of `to` is that of index
// first + i under `seed`.
cudaError_t LaunchNumbers(uint32_t seed, uint32_t first, size_t count, uint16_t* to, cudaStream_t stream);

// The same for a cache: number `dim` of token t of unit u is that of index ((2 u + v) * tokens + t) * head_dim + dim,
// v = 1 for values, in block u * ceil(tokens / 16) + t / 16.
cudaError_t LaunchCacheNumbers(uint32_t seed, int32_t units, int32_t tokens, int32_t head_dim, uint16_t* data,
                               cudaStream_t stream);

}  // namespace kvsteward::gpu_bench
