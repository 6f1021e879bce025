// Device memory by the driver's virtual memory management: what extents are made of on CUDA. An object's bytes() are
// device addresses, which the host must not dereference; its descriptor is a POSIX file descriptor that an importer in
// another process maps. Regions, which hosts read and write, stay with the host's backend. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"
#include "service/memory/backend.h"
#include "service/memory/cuda/device_context.h"

namespace kvsteward::memory {

// Reserved device addresses, with memory only where objects were placed. Move-only. REQUIRES: objects in it end before.
class DeviceRange {
 public:
  DeviceRange() = default;
  DeviceRange(std::shared_ptr<const DeviceContext> context, CUdeviceptr data, size_t bytes)
      : context_(std::move(context)), data_(data), bytes_(bytes) {}
  ~DeviceRange() { reset(); }
  DeviceRange(DeviceRange&& other) noexcept
      : context_(std::move(other.context_)),
        data_(std::exchange(other.data_, 0)),
        bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceRange& operator=(DeviceRange&& other) noexcept;

  std::byte* data() const { return reinterpret_cast<std::byte*>(data_); }
  size_t size() const { return bytes_; }
  void reset();

 private:
  std::shared_ptr<const DeviceContext> context_;
  CUdeviceptr data_ = 0;
  size_t bytes_ = 0;
};

class CudaBackend : public Backend {
 public:
  // As DeviceContext::Open.
  static absl::StatusOr<std::unique_ptr<CudaBackend>> Open(std::string_view uuid);

  std::string_view name() const override { return "cuda-posix-fd"; }
  const std::string& uuid() const { return context_->uuid(); }
  // Sizes and addresses of objects and ranges are multiples of it.
  uint64_t granularity() const { return granularity_; }

  // Addresses for objects to be placed in. RESOURCE_EXHAUSTED if there are not so many.
  absl::StatusOr<DeviceRange> Reserve(uint64_t bytes) const;

  // As Backend::Create, with the granularity as the page size and an end that the driver has: the memory is free once
  // every process has closed its descriptors and unmapped it, which device_free_bytes() shows. INVALID_ARGUMENT for
  // Writers::kDaemon: the driver cannot keep an importer from writing.
  absl::StatusOr<std::unique_ptr<MemoryObject>> Create(uint64_t bytes, Writers writers, std::byte* at) override;

  // The same for memory of the daemon's own, which can never be exported: side arrays. It has no descriptor: -1.
  absl::StatusOr<std::unique_ptr<MemoryObject>> CreatePrivate(uint64_t bytes, std::byte* at);

  // What the device has free now, other processes' use counted.
  absl::StatusOr<uint64_t> device_free_bytes() const { return context_->FreeBytes(); }

 private:
  CudaBackend(std::shared_ptr<const DeviceContext> context, uint64_t granularity)
      : context_(std::move(context)), granularity_(granularity) {}
  absl::Status CheckMultiple(std::string_view what, uint64_t bytes) const;
  absl::StatusOr<std::unique_ptr<MemoryObject>> CreateObject(uint64_t bytes, bool exported, std::byte* at) const;

  const std::shared_ptr<const DeviceContext> context_;
  const uint64_t granularity_;
};

}  // namespace kvsteward::memory
