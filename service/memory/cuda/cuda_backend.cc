#include "service/memory/cuda/cuda_backend.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/unique_fd.h"

namespace kvsteward::memory {
namespace {

CUmemAllocationProp Properties(const DeviceContext& context, bool exported) {
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  properties.location.id = context.ordinal();
  properties.requestedHandleTypes = exported ? CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR : CU_MEM_HANDLE_TYPE_NONE;
  return properties;
}

// Filled step by step; its end takes back the steps that were done, in the opposite order.
class CudaObject : public MemoryObject {
 public:
  CudaObject(std::shared_ptr<const DeviceContext> context, uint64_t bytes)
      : context_(std::move(context)), driver_(context_->driver()), size_(bytes) {}

  ~CudaObject() override {
    const DeviceContext::Scope scope(*context_);
    // Emptied, so that a mapping which somebody kept holds nothing. The driver refuses if the device is lost; then the
    // process ends soon, and everything with it.
    if (fd_) (void)Clear();
    fd_.reset();
    if (mapped_) driver_.cuMemUnmap(address_, size_);
    if (handle_ != 0) driver_.cuMemRelease(handle_);
    if (reserved_) driver_.cuMemAddressFree(address_, size_);
  }

  // REQUIRES: called once, with the context current.
  absl::Status Make(bool exported, std::byte* at, uint64_t granularity) {
    const CUmemAllocationProp properties = Properties(*context_, exported);
    if (absl::Status status = Check(driver_.cuMemCreate(&handle_, size_, &properties, 0), "cuMemCreate");
        !status.ok()) {
      handle_ = 0;
      return status;
    }
    if (at == nullptr) {
      if (absl::Status status =
              Check(driver_.cuMemAddressReserve(&address_, size_, granularity, 0, 0), "cuMemAddressReserve");
          !status.ok()) {
        return status;
      }
      reserved_ = true;
    } else {
      address_ = reinterpret_cast<CUdeviceptr>(at);
    }
    if (absl::Status status = Check(driver_.cuMemMap(address_, size_, 0, handle_, 0), "cuMemMap"); !status.ok()) {
      return status;
    }
    mapped_ = true;
    CUmemAccessDesc access{};
    access.location = properties.location;
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    if (absl::Status status = Check(driver_.cuMemSetAccess(address_, size_, &access, 1), "cuMemSetAccess");
        !status.ok()) {
      return status;
    }
    if (absl::Status status = Clear(); !status.ok()) return status;
    if (exported) {
      if (absl::Status status = Export(); !status.ok()) return status;
    }
    // The mapping and the descriptor keep the memory from here on.
    const CUmemGenericAllocationHandle handle = handle_;
    handle_ = 0;
    return Check(driver_.cuMemRelease(handle), "cuMemRelease");
  }

  std::span<std::byte> bytes() const override { return {reinterpret_cast<std::byte*>(address_), size_}; }
  int descriptor() const override { return fd_.get(); }

 private:
  absl::Status Check(CUresult result, const char* call) const {
    if (result == CUDA_SUCCESS) return absl::OkStatus();
    return driver_.ToStatus(result, std::string(call) + " for a memory object of " + std::to_string(size_) + " bytes");
  }

  // On a stream of its own: the default one would wait for others' work. The driver's memset does not wait by itself.
  absl::Status Clear() {
    CUstream stream = nullptr;
    if (absl::Status status = Check(driver_.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
        !status.ok()) {
      return status;
    }
    absl::Status status = Check(driver_.cuMemsetD8Async(address_, 0, size_, stream), "cuMemsetD8Async");
    status.Update(Check(driver_.cuStreamSynchronize(stream), "cuStreamSynchronize"));
    status.Update(Check(driver_.cuStreamDestroy(stream), "cuStreamDestroy"));
    return status;
  }

  absl::Status Export() {
    int fd = -1;
    if (absl::Status status =
            Check(driver_.cuMemExportToShareableHandle(&fd, handle_, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
                  "cuMemExportToShareableHandle");
        !status.ok()) {
      return status;
    }
    fd_ = UniqueFd(fd);
    if (fcntl(fd_.get(), F_SETFD, FD_CLOEXEC) != 0) {
      return absl::UnavailableError(std::string("marking a memory object's descriptor close-on-exec failed: ") +
                                    std::strerror(errno));
    }
    return absl::OkStatus();
  }

  const std::shared_ptr<const DeviceContext> context_;
  const CudaDriver& driver_;
  const uint64_t size_;
  CUmemGenericAllocationHandle handle_ = 0;
  CUdeviceptr address_ = 0;
  bool reserved_ = false;
  bool mapped_ = false;
  UniqueFd fd_;
};

}  // namespace

DeviceRange& DeviceRange::operator=(DeviceRange&& other) noexcept {
  if (this != &other) {
    reset();
    context_ = std::move(other.context_);
    data_ = std::exchange(other.data_, 0);
    bytes_ = std::exchange(other.bytes_, 0);
  }
  return *this;
}

void DeviceRange::reset() {
  if (bytes_ == 0) return;
  const DeviceContext::Scope scope(*context_);
  context_->driver().cuMemAddressFree(data_, bytes_);
  data_ = 0;
  bytes_ = 0;
}

absl::StatusOr<std::unique_ptr<CudaBackend>> CudaBackend::Open(std::string_view uuid) {
  absl::StatusOr<std::shared_ptr<const DeviceContext>> context = DeviceContext::Open(uuid);
  if (!context.ok()) return context.status();
  const DeviceContext::Scope scope(**context);
  if (!scope.status().ok()) return scope.status();
  // Exported or not, the granules are the same size; the larger would do for both.
  uint64_t granularity = 0;
  for (const bool exported : {false, true}) {
    const CUmemAllocationProp properties = Properties(**context, exported);
    size_t bytes = 0;
    const CUresult result =
        (*context)->driver().cuMemGetAllocationGranularity(&bytes, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
    if (absl::Status status = (*context)->driver().ToStatus(result, "cuMemGetAllocationGranularity"); !status.ok()) {
      return status;
    }
    granularity = std::max<uint64_t>(granularity, bytes);
  }
  return std::unique_ptr<CudaBackend>(new CudaBackend(*std::move(context), granularity));
}

absl::Status CudaBackend::CheckMultiple(std::string_view what, uint64_t bytes) const {
  if (bytes > 0 && bytes % granularity_ == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(std::string(what) + " of " + std::to_string(bytes) +
                                    " bytes is no positive multiple of the device's granularity, " +
                                    std::to_string(granularity_));
}

absl::StatusOr<DeviceRange> CudaBackend::Reserve(uint64_t bytes) const {
  if (absl::Status status = CheckMultiple("a range", bytes); !status.ok()) return status;
  const DeviceContext::Scope scope(*context_);
  if (!scope.status().ok()) return scope.status();
  CUdeviceptr data = 0;
  const CUresult result = context_->driver().cuMemAddressReserve(&data, bytes, granularity_, 0, 0);
  if (absl::Status status = context_->driver().ToStatus(result, "cuMemAddressReserve"); !status.ok()) return status;
  return DeviceRange(context_, data, bytes);
}

absl::StatusOr<std::unique_ptr<MemoryObject>> CudaBackend::CreateObject(uint64_t bytes, bool exported,
                                                                        std::byte* at) const {
  if (absl::Status status = CheckMultiple("a memory object", bytes); !status.ok()) return status;
  if (reinterpret_cast<uintptr_t>(at) % granularity_ != 0) {
    return absl::InvalidArgumentError("a memory object's address is no multiple of the device's granularity, " +
                                      std::to_string(granularity_));
  }
  const DeviceContext::Scope scope(*context_);
  if (!scope.status().ok()) return scope.status();
  auto object = std::make_unique<CudaObject>(context_, bytes);
  if (absl::Status status = object->Make(exported, at, granularity_); !status.ok()) return status;
  return object;
}

absl::StatusOr<std::unique_ptr<MemoryObject>> CudaBackend::Create(uint64_t bytes, Writers writers, std::byte* at) {
  if (writers == Writers::kDaemon) {
    return absl::InvalidArgumentError("device memory that only the daemon writes cannot be exported");
  }
  return CreateObject(bytes, true, at);
}

absl::StatusOr<std::unique_ptr<MemoryObject>> CudaBackend::CreatePrivate(uint64_t bytes, std::byte* at) {
  return CreateObject(bytes, false, at);
}

}  // namespace kvsteward::memory
