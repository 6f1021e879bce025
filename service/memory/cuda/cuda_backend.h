// Device memory by the driver's virtual memory management: what extents are made of on CUDA. An object's bytes() are
// device addresses, which the host must not dereference; its descriptor is a POSIX file descriptor that an importer in
// another process maps. Regions, which hosts read and write, stay with the host's backend. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/cuda/device_context.h"
#include "service/memory/backend.h"

namespace kvsteward::memory {

class CudaBackend : public ExtentBackend {
 public:
  static absl::StatusOr<std::unique_ptr<CudaBackend>> Open(std::shared_ptr<const DeviceContext> context);

  // Whether an arena of so many bytes, in extents of so many, can be had on the device as it is now. INVALID_ARGUMENT
  // naming the key of the configuration, its value and what the device allows.
  absl::Status CheckArena(uint64_t arena_bytes, uint64_t extent_bytes) const;

  std::string_view name() const override { return "cuda-posix-fd"; }
  uint64_t granularity() const override { return granularity_; }
  absl::StatusOr<std::unique_ptr<AddressRange>> Reserve(uint64_t bytes) override;

  // With an end that the driver has: the memory is free once every process has closed its descriptors and unmapped it,
  // which FreeBytes() shows. INVALID_ARGUMENT for Writers::kDaemon: the driver cannot keep an importer from writing.
  absl::StatusOr<std::unique_ptr<MemoryObject>> Create(uint64_t bytes, Writers writers, std::byte* at) override;

  // Always there from the start.
  absl::StatusOr<std::unique_ptr<MemoryObject>> CreatePrivate(uint64_t bytes, std::byte* at,
                                                              Presence presence) override;

  // What the device has free now, other processes' use counted.
  absl::StatusOr<uint64_t> FreeBytes() const override { return context_->FreeBytes(); }

 private:
  CudaBackend(std::shared_ptr<const DeviceContext> context, uint64_t granularity)
      : context_(std::move(context)), granularity_(granularity) {}
  absl::Status CheckMultiple(std::string_view what, uint64_t bytes) const;
  absl::StatusOr<std::unique_ptr<MemoryObject>> CreateObject(uint64_t bytes, bool exported, std::byte* at) const;

  const std::shared_ptr<const DeviceContext> context_;
  const uint64_t granularity_;
};

}  // namespace kvsteward::memory
