// Device memory as the sidecar and its workers handle it alike: reserved addresses, mappings of allocations, and copies
// that wait for nobody else's work. Functions make the device's context current themselves. Thread-safe; a DeviceRange
// is thread-compatible.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/cuda/device_context.h"
#include "base/piece.h"

namespace kvsteward {

// What an allocation of ours is; `exported`: as a descriptor that another process may map.
CUmemAllocationProp AllocationProperties(const DeviceContext& context, bool exported);

// Sizes and addresses of allocations, mappings and ranges are multiples of it.
absl::StatusOr<uint64_t> DeviceGranularity(const DeviceContext& context);

// Reserved device addresses, with memory only where it was mapped. Move-only. REQUIRES: mappings in it end before.
class DeviceRange {
 public:
  // RESOURCE_EXHAUSTED if there are not so many. REQUIRES: `bytes` is a multiple of `granularity`, the device's.
  static absl::StatusOr<DeviceRange> Reserve(std::shared_ptr<const DeviceContext> context, uint64_t bytes,
                                             uint64_t granularity);
  DeviceRange() = default;
  ~DeviceRange() { reset(); }
  DeviceRange(DeviceRange&& other) noexcept { *this = std::move(other); }
  DeviceRange& operator=(DeviceRange&& other) noexcept;

  std::byte* data() const { return reinterpret_cast<std::byte*>(data_); }
  size_t size() const { return bytes_; }
  void reset();

 private:
  std::shared_ptr<const DeviceContext> context_;
  CUdeviceptr data_ = 0;
  size_t bytes_ = 0;
};

// Maps an allocation for the device to read and write. On an error nothing is mapped. REQUIRES: the place is reserved.
absl::Status MapAllocation(const DeviceContext& context, CUmemGenericAllocationHandle allocation, std::byte* at,
                           uint64_t bytes);

// Each is done when it returns, unless the device is lost.
absl::Status ClearDeviceMemory(const DeviceContext& context, std::byte* at, uint64_t bytes);
absl::Status CopyToDevice(const DeviceContext& context, std::span<const Piece> pieces);
absl::Status CopyFromDevice(const DeviceContext& context, const std::byte* from, std::span<std::byte> to);

}  // namespace kvsteward
