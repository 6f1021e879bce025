// One CUDA device, found by its UUID, with its primary context, which the runtime of kernels/cuda shares. Thread-safe:
// each thread makes the context its own with a Scope for as long as it calls the driver.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/cuda/driver.h"

namespace kvsteward {

class DeviceContext {
 public:
  // `uuid` as nvidia-smi prints it, "GPU-8-4-4-4-12 hexadecimal digits" ("MIG-" likewise); empty: the only device there
  // is. NOT_FOUND naming the devices that there are; FAILED_PRECONDITION without a driver, or if the device has no
  // virtual memory with descriptors to share it.
  static absl::StatusOr<std::shared_ptr<const DeviceContext>> Open(std::string_view uuid);
  ~DeviceContext();
  DeviceContext(const DeviceContext&) = delete;
  DeviceContext& operator=(const DeviceContext&) = delete;

  const CudaDriver& driver() const { return driver_; }
  int ordinal() const { return ordinal_; }  // this process's number for it; means nothing to others
  const std::string& uuid() const { return uuid_; }

  // Free memory of the device, whoever has the rest.
  absl::StatusOr<uint64_t> FreeBytes() const;

  // Makes the context current on this thread until its end. REQUIRES: the context outlives it.
  class Scope {
   public:
    explicit Scope(const DeviceContext& context);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    const absl::Status& status() const { return status_; }

   private:
    const DeviceContext& context_;
    absl::Status status_;
  };

 private:
  DeviceContext(const CudaDriver& driver, int ordinal, CUdevice device, std::string uuid)
      : driver_(driver), ordinal_(ordinal), device_(device), uuid_(std::move(uuid)) {}
  absl::Status CheckAndRetain();

  const CudaDriver& driver_;
  const int ordinal_;
  const CUdevice device_;
  const std::string uuid_;
  CUcontext context_ = nullptr;
};

}  // namespace kvsteward
