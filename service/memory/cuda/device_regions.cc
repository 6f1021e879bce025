#include "service/memory/cuda/device_regions.h"

#include <utility>

namespace kvsteward::memory {
namespace {

// REQUIRES: the region is registered.
class RegisteredRegion : public MemoryObject {
 public:
  RegisteredRegion(std::shared_ptr<const DeviceContext> context, std::unique_ptr<MemoryObject> region)
      : context_(std::move(context)), region_(std::move(region)) {}

  // Before the region ends: the device would go on writing to pages that nobody has.
  ~RegisteredRegion() override {
    const DeviceContext::Scope scope(*context_);
    context_->driver().cuMemHostUnregister(region_->bytes().data());
  }

  std::span<std::byte> bytes() const override { return region_->bytes(); }
  int descriptor() const override { return region_->descriptor(); }

 private:
  const std::shared_ptr<const DeviceContext> context_;
  const std::unique_ptr<MemoryObject> region_;
};

class DeviceRegions : public Backend {
 public:
  DeviceRegions(std::shared_ptr<const DeviceContext> context, std::unique_ptr<Backend> host)
      : context_(std::move(context)), host_(std::move(host)) {}

  absl::StatusOr<std::unique_ptr<MemoryObject>> Create(uint64_t bytes, Writers writers, std::byte* at) override {
    absl::StatusOr<std::unique_ptr<MemoryObject>> region = host_->Create(bytes, writers, at);
    if (!region.ok() || writers == Writers::kEveryone) return region;
    const DeviceContext::Scope scope(*context_);
    if (!scope.status().ok()) return scope.status();
    constexpr unsigned kFlags = CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP;
    if (context_->driver().cuMemHostRegister((*region)->bytes().data(), bytes, kFlags) != CUDA_SUCCESS) return region;
    return std::make_unique<RegisteredRegion>(context_, *std::move(region));
  }

 private:
  const std::shared_ptr<const DeviceContext> context_;
  const std::unique_ptr<Backend> host_;
};

}  // namespace

std::unique_ptr<Backend> NewDeviceRegions(std::shared_ptr<const DeviceContext> context, std::unique_ptr<Backend> host) {
  return std::make_unique<DeviceRegions>(std::move(context), std::move(host));
}

}  // namespace kvsteward::memory
