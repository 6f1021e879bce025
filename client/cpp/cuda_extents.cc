#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/cuda/device_memory.h"
#include "client/cpp/extents.h"
#include "client/cpp/received_object.h"

namespace kvsteward {
namespace {

// Mappings of device memory that the sidecar made. They keep it alive whatever becomes of the sidecar, and their
// contents.
class CudaExtents : public Extents {
 public:
  CudaExtents(std::shared_ptr<const DeviceContext> context, DeviceRange space)
      : context_(std::move(context)), space_(std::move(space)) {}

  ~CudaExtents() override {
    const DeviceContext::Scope scope(*context_);
    for (const auto& [offset, bytes] : mapped_) context_->driver().cuMemUnmap(Address(offset), bytes);
  }

  std::byte* data() const override { return space_.data(); }

  absl::Status Map(const ReceivedObject& extent, uint64_t offset) override {
    const DeviceContext::Scope scope(*context_);
    if (!scope.status().ok()) return scope.status();
    const CudaDriver& driver = context_->driver();
    CUmemGenericAllocationHandle allocation = 0;
    const CUresult imported = driver.cuMemImportFromShareableHandle(
        &allocation, reinterpret_cast<void*>(static_cast<uintptr_t>(extent.fd.get())),
        CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
    if (imported != CUDA_SUCCESS) {
      return Wrong(extent, absl::StrCat("is no memory of device ", context_->uuid(), " (",
                                        std::string(driver.ToStatus(imported, "importing it").message()), ")"));
    }
    absl::Status status = MapAllocation(*context_, allocation, space_.data() + offset, extent.bytes);
    driver.cuMemRelease(allocation);  // the mapping keeps the memory
    if (!status.ok()) return Wrong(extent, absl::StrCat("cannot be mapped: ", std::string(status.message())));
    mapped_[offset] = extent.bytes;
    return status;
  }

  absl::Status Write(const Piece& piece) const override { return CopyToDevice(*context_, {&piece, 1}); }

 private:
  CUdeviceptr Address(uint64_t offset) const { return reinterpret_cast<CUdeviceptr>(space_.data() + offset); }

  const std::shared_ptr<const DeviceContext> context_;
  const DeviceRange space_;
  std::map<uint64_t, uint64_t> mapped_;  // bytes by offset: unmapping wants the bounds of the mapping
};

}  // namespace

absl::StatusOr<std::unique_ptr<Extents>> ReserveCudaExtents(const std::string& uuid, uint64_t bytes,
                                                            uint64_t extent_bytes) {
  absl::StatusOr<std::shared_ptr<const DeviceContext>> context = DeviceContext::Open(uuid);
  if (!context.ok()) return context.status();
  const absl::StatusOr<uint64_t> granularity = DeviceGranularity(**context);
  if (!granularity.ok()) return granularity.status();
  if (extent_bytes % *granularity != 0) {
    return absl::InternalError(absl::StrCat("the sidecar's extents of ", extent_bytes, " bytes are no multiple of ",
                                            *granularity, ", the granularity of device ", (*context)->uuid()));
  }
  absl::StatusOr<DeviceRange> space = DeviceRange::Reserve(*context, bytes, *granularity);
  if (!space.ok()) return space.status();
  return std::make_unique<CudaExtents>(*std::move(context), *std::move(space));
}

}  // namespace kvsteward
