#include "client/worker/open_attention.h"

#include "client/worker/host_attention.h"

namespace kvsteward::worker {

absl::StatusOr<std::unique_ptr<CacheAttention>> OpenAttention(Device device, std::string_view uuid,
                                                              const ModelConfig& config) {
  if (device == Device::kHost && !uuid.empty()) {
    return absl::FailedPreconditionError("device is host, but the sidecar keeps caches on CUDA device " +
                                         std::string(uuid) + ": use --device cuda, or a sidecar on the host");
  }
  if (device == Device::kCuda && uuid.empty()) {
    return absl::FailedPreconditionError(
        "device is cuda, but the sidecar keeps caches on the host: use --device host, or a sidecar whose device.kind "
        "is "
        "cuda");
  }
  if (device == Device::kCuda) return OpenCudaAttention(uuid, config);
  return std::make_unique<HostAttention>(config);
}

}  // namespace kvsteward::worker
