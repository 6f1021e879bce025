#include "base/cuda/device_memory.h"

#include <algorithm>
#include <string>

namespace kvsteward {
namespace {

CUdeviceptr Address(const std::byte* at) { return reinterpret_cast<CUdeviceptr>(at); }

// On a stream of its own: the default one would wait for others' work.
template <class Work>
absl::Status OnStream(const DeviceContext& context, Work work) {
  const DeviceContext::Scope scope(context);
  if (!scope.status().ok()) return scope.status();
  const CudaDriver& driver = context.driver();
  CUstream stream = nullptr;
  absl::Status status = driver.ToStatus(driver.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
  if (!status.ok()) return status;
  status = work(driver, stream);
  status.Update(driver.ToStatus(driver.cuStreamSynchronize(stream), "cuStreamSynchronize"));
  status.Update(driver.ToStatus(driver.cuStreamDestroy(stream), "cuStreamDestroy"));
  return status;
}

}  // namespace

CUmemAllocationProp AllocationProperties(const DeviceContext& context, bool exported) {
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  properties.location.id = context.ordinal();
  properties.requestedHandleTypes = exported ? CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR : CU_MEM_HANDLE_TYPE_NONE;
  return properties;
}

absl::StatusOr<uint64_t> DeviceGranularity(const DeviceContext& context) {
  const DeviceContext::Scope scope(context);
  if (!scope.status().ok()) return scope.status();
  // Exported or not, the granules are the same size; the larger would do for both.
  uint64_t granularity = 0;
  for (const bool exported : {false, true}) {
    const CUmemAllocationProp properties = AllocationProperties(context, exported);
    size_t bytes = 0;
    const CUresult result =
        context.driver().cuMemGetAllocationGranularity(&bytes, &properties, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
    if (absl::Status status = context.driver().ToStatus(result, "cuMemGetAllocationGranularity"); !status.ok()) {
      return status;
    }
    granularity = std::max<uint64_t>(granularity, bytes);
  }
  return granularity;
}

absl::StatusOr<DeviceRange> DeviceRange::Reserve(std::shared_ptr<const DeviceContext> context, uint64_t bytes,
                                                 uint64_t granularity) {
  const DeviceContext::Scope scope(*context);
  if (!scope.status().ok()) return scope.status();
  CUdeviceptr data = 0;
  const CUresult result = context->driver().cuMemAddressReserve(&data, bytes, granularity, 0, 0);
  absl::Status status =
      context->driver().ToStatus(result, "cuMemAddressReserve for " + std::to_string(bytes) + " bytes");
  if (!status.ok()) return status;
  DeviceRange range;
  range.context_ = std::move(context);
  range.data_ = data;
  range.bytes_ = bytes;
  return range;
}

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

absl::Status MapAllocation(const DeviceContext& context, CUmemGenericAllocationHandle allocation, std::byte* at,
                           uint64_t bytes) {
  const DeviceContext::Scope scope(context);
  if (!scope.status().ok()) return scope.status();
  const CudaDriver& driver = context.driver();
  const std::string what = " for a memory object of " + std::to_string(bytes) + " bytes";
  absl::Status status = driver.ToStatus(driver.cuMemMap(Address(at), bytes, 0, allocation, 0), "cuMemMap" + what);
  if (!status.ok()) return status;
  CUmemAccessDesc access{};
  access.location = AllocationProperties(context, false).location;
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  status = driver.ToStatus(driver.cuMemSetAccess(Address(at), bytes, &access, 1), "cuMemSetAccess" + what);
  if (!status.ok()) driver.cuMemUnmap(Address(at), bytes);
  return status;
}

absl::Status ClearDeviceMemory(const DeviceContext& context, std::byte* at, uint64_t bytes) {
  return OnStream(context, [&](const CudaDriver& driver, CUstream stream) {
    return driver.ToStatus(driver.cuMemsetD8Async(Address(at), 0, bytes, stream), "cuMemsetD8Async");
  });
}

absl::Status CopyToDevice(const DeviceContext& context, std::span<const Piece> pieces) {
  return OnStream(context, [&](const CudaDriver& driver, CUstream stream) {
    for (const Piece& piece : pieces) {
      const CUresult result = driver.cuMemcpyHtoDAsync(Address(piece.to), piece.from.data(), piece.from.size(), stream);
      if (result != CUDA_SUCCESS) return driver.ToStatus(result, "cuMemcpyHtoDAsync");
    }
    return absl::OkStatus();
  });
}

absl::Status CopyFromDevice(const DeviceContext& context, const std::byte* from, std::span<std::byte> to) {
  return OnStream(context, [&](const CudaDriver& driver, CUstream stream) {
    return driver.ToStatus(driver.cuMemcpyDtoHAsync(to.data(), Address(from), to.size(), stream), "cuMemcpyDtoHAsync");
  });
}

}  // namespace kvsteward
