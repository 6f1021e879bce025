// Puts new tokens' keys and values into a paged cache. Stateless; all memory is the caller's.
#pragma once

#include <cuda_runtime_api.h>

#include "client/worker/cuda/paged_rows.h"

namespace kvsteward::worker::cuda {

// float32, rounded to the cache's type: of token t in row r, [head_dim] at keys + r * head_dim + t * token_stride;
// values likewise.
struct PagedAppendArgs {
  PagedRows cache;
  int32_t tokens = 0;
  const float* keys = nullptr;
  const float* values = nullptr;
  int64_t token_stride = 0;
};

// Token t becomes number length[r] - 1 + t of row r. REQUIRES: length[r] > 0, and blocks for all of them.
cudaError_t LaunchPagedAppend(const PagedAppendArgs& args, cudaStream_t stream);

}  // namespace kvsteward::worker::cuda
