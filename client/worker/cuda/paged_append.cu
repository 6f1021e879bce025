// A block of threads for each new token of a row: element by element, keys first. What it writes is small.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <type_traits>

#include "client/worker/cuda/paged_append.h"
#include "kernels/cuda/launch.h"

namespace kvsteward::worker::cuda {
namespace {

using engine::DType;
using engine::kBlockTokens;

constexpr int32_t kThreads = 64;
constexpr int64_t kMostGrid = 1 << 20;

__device__ __forceinline__ void Store(float value, float& to) { to = value; }
__device__ __forceinline__ void Store(float value, __half& to) { to = __float2half_rn(value); }
__device__ __forceinline__ void Store(float value, __nv_bfloat16& to) { to = __float2bfloat16_rn(value); }

template <class T>
__global__ void __launch_bounds__(kThreads) AppendKernel(PagedAppendArgs args) {
  const PagedRows& cache = args.cache;
  const int32_t dim = cache.head_dim;
  const int64_t items = int64_t{cache.rows} * args.tokens;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t row = item / args.tokens;
    const int64_t t = item % args.tokens;
    const int64_t token = cache.length[row] - int64_t{1} + t;
    const uint32_t block = cache.blocks[row * cache.block_stride + token / kBlockTokens];
    T* const halves = reinterpret_cast<T*>(cache.data + block * cache.block_bytes);
    const int64_t slot = token % kBlockTokens;
    const int64_t from = row * dim + t * args.token_stride;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < 2 * dim; i += kThreads) {
      const bool key = i < dim;
      const int32_t column = key ? i : i - dim;
      Store((key ? args.keys : args.values)[from + column], halves[(slot + (key ? 0 : kBlockTokens)) * dim + column]);
    }
  }
}

}  // namespace

cudaError_t LaunchPagedAppend(const PagedAppendArgs& args, cudaStream_t stream) {
  const int64_t items = int64_t{args.cache.rows} * args.tokens;
  if (items <= 0) return cudaSuccess;
  const auto launch = [&](void (*kernel)(PagedAppendArgs)) {
    return engine::cuda::Launch(kernel, static_cast<unsigned>(std::min(items, kMostGrid)), kThreads, 0, stream, args);
  };
  switch (args.cache.dtype) {
    case DType::kF32:
      return launch(AppendKernel<float>);
    case DType::kF16:
      return launch(AppendKernel<__half>);
    case DType::kBF16:
      return launch(AppendKernel<__nv_bfloat16>);
  }
  return cudaErrorInvalidValue;
}

}  // namespace kvsteward::worker::cuda
