#include "tests/gpu/bench/kernels.h"

#include <cuda_bf16.h>

#include "kernels/cuda/launch.h"
#include "kvsteward/engine/tensor.h"

namespace kvsteward::gpu_bench {
namespace {

using engine::cuda::Launch;

constexpr int kThreads = 512;
constexpr int kLoads = 8;  // in flight per thread
constexpr uint32_t kUnlikely = 0x9e3779b9u;
constexpr int kProducts = 8;  // independent ones, per warp
constexpr double kProductFlops = 2.0 * 16 * 8 * 16;

uint32_t BlocksFor(size_t threads) {
  constexpr size_t kMost = size_t{1} << 20;
  const size_t blocks = (threads + kThreads - 1) / kThreads;
  return static_cast<uint32_t>(blocks < 1 ? 1 : blocks < kMost ? blocks : kMost);
}

__device__ uint64_t Nanoseconds() {
  uint64_t time;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(time));
  return time;
}

__global__ void Pause(uint64_t nanoseconds) {
  const uint64_t begin = Nanoseconds();
  while (Nanoseconds() - begin < nanoseconds) __nanosleep(100);
}

__global__ void __launch_bounds__(kThreads) Read(const uint4* data, size_t count, int times, uint32_t* sink) {
  const size_t stride = size_t{gridDim.x} * kThreads;
  uint32_t sum = 0;
  for (int time = 0; time < times; ++time) {
    size_t i = blockIdx.x * size_t{kThreads} + threadIdx.x;
    for (; i + (kLoads - 1) * stride < count; i += kLoads * stride) {
      uint4 loaded[kLoads];
#pragma unroll
      for (int k = 0; k < kLoads; ++k) loaded[k] = __ldcg(data + i + k * stride);  // past L1
#pragma unroll
      for (int k = 0; k < kLoads; ++k) sum += loaded[k].x ^ loaded[k].y ^ loaded[k].z ^ loaded[k].w;
    }
    for (; i < count; i += stride) sum += __ldcg(data + i).x;
  }
  if (sum == kUnlikely) *sink = sum;
}

__global__ void __launch_bounds__(kThreads) Copy(const uint4* from, uint4* to, size_t count) {
  const size_t stride = size_t{gridDim.x} * kThreads;
  size_t i = blockIdx.x * size_t{kThreads} + threadIdx.x;
  for (; i + 3 * stride < count; i += 4 * stride) {
    uint4 loaded[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) loaded[k] = __ldcs(from + i + k * stride);
#pragma unroll
    for (int k = 0; k < 4; ++k) __stcs(to + i + k * stride, loaded[k]);
  }
  for (; i < count; i += stride) to[i] = from[i];
}

__global__ void __launch_bounds__(kThreads) Mma(int iterations, uint32_t* sink) {
  // Ordinary numbers, different in every thread: products of zeros take less power, and so run faster.
  uint32_t a[4], b[2];
  uint32_t state = (blockIdx.x * kThreads + threadIdx.x) * 2654435761u + 1;
  const auto draw = [&] {
    state = state * 1664525u + 1013904223u;
    return 0x3f003f00u | (state & 0x807f807fu);  // two bf16 numbers of size 0.5 to 1
  };
  for (uint32_t& word : a) word = draw();
  for (uint32_t& word : b) word = draw();
  float sums[kProducts][4] = {};
  for (int i = 0; i < iterations; ++i) {
#pragma unroll
    for (int k = 0; k < kProducts; ++k) {
      asm volatile(
          "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
          "{%0, %1, %2, %3};"
          : "+f"(sums[k][0]), "+f"(sums[k][1]), "+f"(sums[k][2]), "+f"(sums[k][3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
  }
  float total = 0;
#pragma unroll
  for (int k = 0; k < kProducts; ++k) total += sums[k][0] + sums[k][1] + sums[k][2] + sums[k][3];
  if (__float_as_uint(total) == kUnlikely) *sink = 1;
}

// The sum of the four bytes of a mixed index, about normal, exact in every step until it is rounded to bf16.
__device__ uint16_t NumberOf(uint32_t seed, uint32_t index) {
  uint32_t x = index ^ seed * 0x9e3779b9u;
  x = (x ^ x >> 16) * 0x85ebca6bu;
  x = (x ^ x >> 13) * 0xc2b2ae35u;
  x ^= x >> 16;
  const auto sum = static_cast<int>((x & 255) + (x >> 8 & 255) + (x >> 16 & 255) + (x >> 24)) - 510;
  return __bfloat16_as_ushort(__float2bfloat16_rn(static_cast<float>(sum) * 0x1p-7f));
}

__global__ void __launch_bounds__(kThreads) Numbers(uint32_t seed, uint32_t first, size_t count, uint16_t* to) {
  const size_t stride = size_t{gridDim.x} * kThreads;
  for (size_t i = blockIdx.x * size_t{kThreads} + threadIdx.x; i < count; i += stride) {
    to[i] = NumberOf(seed, first + static_cast<uint32_t>(i));
  }
}

__global__ void __launch_bounds__(kThreads)
    CacheNumbers(uint32_t seed, int32_t units, int32_t tokens, int32_t head_dim, uint16_t* data) {
  constexpr int64_t kTokens = engine::kBlockTokens;
  const int64_t count = 2ll * units * tokens * head_dim;
  const int64_t row_blocks = (tokens + kTokens - 1) / kTokens;
  const int64_t stride = int64_t{gridDim.x} * kThreads;
  for (int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x; i < count; i += stride) {
    const int64_t dim = i % head_dim;
    const int64_t token = i / head_dim % tokens;
    const int64_t half = i / head_dim / tokens;  // 2 u + v
    const int64_t block = half / 2 * row_blocks + token / kTokens;
    data[((block * 2 + half % 2) * kTokens + token % kTokens) * head_dim + dim] =
        NumberOf(seed, static_cast<uint32_t>(i));
  }
}

}  // namespace

cudaError_t LaunchPause(double us, cudaStream_t stream) {
  return Launch(Pause, 1, 1, 0, stream, static_cast<uint64_t>(us * 1000));
}

cudaError_t LaunchRead(const void* data, size_t bytes, int times, uint32_t* sink, cudaStream_t stream) {
  const size_t count = bytes / sizeof(uint4);
  return Launch(Read, BlocksFor(count / kLoads), kThreads, 0, stream, static_cast<const uint4*>(data), count, times,
                sink);
}

cudaError_t LaunchCopy(const void* from, void* to, size_t bytes, cudaStream_t stream) {
  const size_t count = bytes / sizeof(uint4);
  return Launch(Copy, BlocksFor(count / 4), kThreads, 0, stream, static_cast<const uint4*>(from),
                static_cast<uint4*>(to), count);
}

double MmaLoop::flops() const { return kProductFlops * kProducts * iterations * blocks * (kThreads / 32); }

cudaError_t LaunchMma(const MmaLoop& loop, uint32_t* sink, cudaStream_t stream) {
  return Launch(Mma, static_cast<uint32_t>(loop.blocks), kThreads, 0, stream, loop.iterations, sink);
}

cudaError_t LaunchNumbers(uint32_t seed, uint32_t first, size_t count, uint16_t* to, cudaStream_t stream) {
  return Launch(Numbers, BlocksFor(count), kThreads, 0, stream, seed, first, count, to);
}

cudaError_t LaunchCacheNumbers(uint32_t seed, int32_t units, int32_t tokens, int32_t head_dim, uint16_t* data,
                               cudaStream_t stream) {
  const size_t count = size_t{2} * static_cast<size_t>(units) * static_cast<size_t>(tokens * int64_t{head_dim});
  return Launch(CacheNumbers, BlocksFor(count), kThreads, 0, stream, seed, units, tokens, head_dim, data);
}

}  // namespace kvsteward::gpu_bench
