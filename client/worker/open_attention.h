// Who attends for a worker: on the device that it was told to use, which must be where its sidecar keeps caches.
#pragma once

#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "client/worker/arena.h"
#include "client/worker/cache_attention.h"
#include "client/worker/model.h"

namespace kvsteward::worker {

// `uuid`: Client::device(), empty if the sidecar keeps caches on the host. FAILED_PRECONDITION if that is not `device`;
// else as OpenCudaAttention.
absl::StatusOr<std::unique_ptr<CacheAttention>> OpenAttention(Device device, std::string_view uuid,
                                                              const ModelConfig& config);

// On the CUDA device with this UUID. FAILED_PRECONDITION without a driver, and always in a build without CUDA;
// NOT_FOUND if this process sees no such device; else as CudaAttention::Open.
absl::StatusOr<std::unique_ptr<CacheAttention>> OpenCudaAttention(std::string_view uuid, const ModelConfig& config);

}  // namespace kvsteward::worker
