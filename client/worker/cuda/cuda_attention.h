// Attention over a cache in a CUDA device's memory: what touches keys and values runs there, everything else of the
// decoder on the host. Owns a stream, a copy of the block table, and room for one layer's numbers on both sides. One
// thread at a time.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/worker/cache_attention.h"
#include "client/worker/cuda/paged_attention.h"
#include "client/worker/model.h"

namespace kvsteward::worker {

class CudaAttention : public CacheAttention {
 public:
  // On device number `device` of this process. RESOURCE_EXHAUSTED without memory for it; INVALID_ARGUMENT for a model
  // whose head_dim the kernels do not have.
  static absl::StatusOr<std::unique_ptr<CudaAttention>> Open(const ModelConfig& config, int device);

  // Besides: INTERNAL if the cache names a block that does not exist; UNAVAILABLE with CUDA's words, and ever after, if
  // the device is lost to this process.
  absl::Status Run(const KvCache& cache, const LayerPass& pass) override;

 private:
  struct Free {
    void operator()(std::byte* device_memory) const { cudaFree(device_memory); }
  };
  struct FreeHost {
    void operator()(std::byte* pinned_memory) const { cudaFreeHost(pinned_memory); }
  };
  struct Destroy {
    void operator()(cudaStream_t stream) const { cudaStreamDestroy(stream); }
  };

  CudaAttention(const ModelConfig& config, int device);
  absl::Status Allocate();
  absl::Status UpdateRows(const KvCache& cache, const LayerPass& pass);
  // Everything from the copy in to the copy out, on the stream.
  cudaError_t Start(const KvCache& cache, const LayerPass& pass);
  size_t QkvWidth() const { return config_.query_width() + 2 * config_.kv_width(); }

  const ModelConfig config_;
  const int device_;
  const uint32_t row_blocks_;   // of the longest row
  const size_t lengths_bytes_;  // of a layer's rows, before the numbers of its tokens
  std::unique_ptr<CUstream_st, Destroy> stream_;
  std::unique_ptr<std::byte, Free> rows_;       // [units][row_blocks_] block numbers
  std::unique_ptr<std::byte, Free> input_;      // int32 lengths [kv_heads], padded, then float queries, keys and values
  std::unique_ptr<std::byte, Free> output_;     // float [tokens, query_width]
  std::unique_ptr<std::byte, Free> workspace_;  // of the attention
  // Pinned, what is copied from and to: `host_rows_` is always what rows_ holds.
  std::unique_ptr<std::byte, FreeHost> host_rows_;
  std::unique_ptr<std::byte, FreeHost> host_input_;
  std::unique_ptr<std::byte, FreeHost> host_output_;
};

}  // namespace kvsteward::worker
