// Attention of new tokens out of a paged cache whose rows have lengths of their own. Stateless; all memory is the
// caller's.
#pragma once

#include <cuda_runtime_api.h>

#include "client/worker/cuda/paged_rows.h"

namespace kvsteward::worker::cuda {

inline constexpr int32_t kMostHeadDim = 256;

// Token t of every row sees the row's first length[r] + t tokens. Queries and what is attended are float32: of token t
// and row r, [group, head_dim] at queries + r * group * head_dim + t * query_stride; out likewise.
struct PagedAttentionArgs {
  PagedRows cache;
  int32_t longest = 0;  // at least all of length: bounds the grid
  int32_t tokens = 1;   // of each row
  int32_t group = 1;    // query heads that share a kv head
  const float* queries = nullptr;
  int64_t query_stride = 0;
  float* out = nullptr;
  int64_t out_stride = 0;
  float* workspace = nullptr;  // PagedAttentionWorkspace() bytes, undefined before and after
};

// For args as they will be launched; device pointers are not looked at.
size_t PagedAttentionWorkspace(const PagedAttentionArgs& args);

// out = softmax(queries . keys / sqrt(head_dim)) . values, summed in float32 in an order that depends on the row's own
// lengths, the type and head_dim alone; zeros where nothing is seen. No token that is not seen is read.
// cudaErrorInvalidValue for a head_dim that is no multiple of 8 up to kMostHeadDim, or more than 2^24 - 2^8 tokens.
cudaError_t LaunchPagedAttention(const PagedAttentionArgs& args, cudaStream_t stream);

}  // namespace kvsteward::worker::cuda
