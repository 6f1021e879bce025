// One device as the engine uses it: a stream, pinned memory for what goes up and down, and what errors mean. Used by
// one thread at a time, but for Free.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kvsteward::engine::cuda {

class Device {
 public:
  // FAILED_PRECONDITION if there is no such device.
  static absl::StatusOr<std::shared_ptr<Device>> Open(int ordinal, std::function<void(const std::string&)> on_lost);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  cudaStream_t stream() const { return stream_; }
  // Makes the device this thread's. To be called first by whoever uses it.
  absl::Status Use();

  // OK for cudaSuccess. RESOURCE_EXHAUSTED naming `what` if memory ran out, INVALID_ARGUMENT if a launcher cannot take
  // such sizes; neither changes anything. Everything else is sticky: the device is lost, UNAVAILABLE.
  absl::Status Check(cudaError_t error, const char* what);

  // Notes the time on the stream, as one of three. After the stream has passed both, how long it took between two.
  absl::Status Mark(size_t which);
  double SecondsBetween(size_t from, size_t to) const;

  // Waits for everything on the stream.
  absl::Status Wait();
  // The same; ends what Pinned handed out before.
  absl::Status Synchronize();

  // Pinned memory that is valid until the next Synchronize. RESOURCE_EXHAUSTED.
  absl::StatusOr<std::byte*> Pinned(size_t bytes);

 private:
  Device(int ordinal, std::function<void(const std::string&)> on_lost)
      : ordinal_(ordinal), on_lost_(std::move(on_lost)) {}

  const int ordinal_;
  const std::function<void(const std::string&)> on_lost_;
  cudaStream_t stream_ = nullptr;
  std::array<cudaEvent_t, 3> marks_{};
  std::byte* pinned_ = nullptr;
  size_t pinned_bytes_ = 0;
  size_t pinned_used_ = 0;
  std::vector<std::byte*> outgrown_;  // pinned memory that may still be in use
};

// Device memory in stream order. Move-only; keeps the device. May end on any thread.
class DeviceArray {
 public:
  DeviceArray() = default;
  static absl::StatusOr<DeviceArray> Allocate(std::shared_ptr<Device> device, size_t bytes, const char* what);
  ~DeviceArray();
  DeviceArray(DeviceArray&& other) noexcept;
  DeviceArray& operator=(DeviceArray&& other) noexcept;

  std::byte* data() const { return data_; }

 private:
  std::shared_ptr<Device> device_;
  std::byte* data_ = nullptr;
};

}  // namespace kvsteward::engine::cuda

// Ends a function that returns absl::Status or absl::StatusOr if the status is not OK.
#define KVS_RETURN_IF_ERROR(expression)                             \
  do {                                                              \
    if (absl::Status kvs_status = (expression); !kvs_status.ok()) { \
      return kvs_status;                                            \
    }                                                               \
  } while (false)
