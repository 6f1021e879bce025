#include "base/cuda/device_context.h"
#include "client/worker/cuda/cuda_attention.h"
#include "client/worker/open_attention.h"

namespace kvsteward::worker {

absl::StatusOr<std::unique_ptr<CacheAttention>> OpenCudaAttention(std::string_view uuid, const ModelConfig& config) {
  const absl::StatusOr<std::shared_ptr<const DeviceContext>> context = DeviceContext::Open(uuid);
  if (!context.ok()) return context.status();
  return CudaAttention::Open(config, (*context)->ordinal());
}

}  // namespace kvsteward::worker
