#include "service/memory/cuda/device_regions.h"

#include <utility>

namespace kvsteward::memory {
namespace {

// REQUIRES: the region is registered.
class RegisteredRegion : public MemoryObject {
 public:
  RegisteredRegion(std::shared_ptr<const DeviceContext> context, std::unique_ptr<MemoryObject> region,
                   std::byte* device_address)
      : context_(std::move(context)), region_(std::move(region)), device_address_(device_address) {}

  // Before the region ends: the device would go on writing to pages that nobody has.
  ~RegisteredRegion() override {
    const DeviceContext::Scope scope(*context_);
    context_->driver().cuMemHostUnregister(region_->bytes().data());
  }

  std::span<std::byte> bytes() const override { return region_->bytes(); }
  int descriptor() const override { return region_->descriptor(); }
  std::byte* device_address() const override { return device_address_; }

 private:
  const std::shared_ptr<const DeviceContext> context_;
  const std::unique_ptr<MemoryObject> region_;
  std::byte* const device_address_;
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
    const CudaDriver& driver = context_->driver();
    std::byte* const data = (*region)->bytes().data();
    if (driver.cuMemHostRegister(data, bytes, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP) !=
        CUDA_SUCCESS) {
      return region;
    }
    CUdeviceptr address = 0;
    if (driver.cuMemHostGetDevicePointer(&address, data, 0) != CUDA_SUCCESS) {
      driver.cuMemHostUnregister(data);
      return region;
    }
    return std::make_unique<RegisteredRegion>(context_, *std::move(region), reinterpret_cast<std::byte*>(address));
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
