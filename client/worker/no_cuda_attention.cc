#include "client/worker/open_attention.h"

namespace kvsteward::worker {

absl::StatusOr<std::unique_ptr<CacheAttention>> OpenCudaAttention(std::string_view /*uuid*/,
                                                                  const ModelConfig& /*config*/) {
  return absl::FailedPreconditionError(
      "device is cuda, but this worker was built without CUDA: use --device host, or "
      "build it where nvcc is");
}

}  // namespace kvsteward::worker
