#include "base/cuda/device_context.h"

#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_join.h"

namespace kvsteward {
namespace {

// As nvidia-smi writes it.
std::string ToText(const CUuuid& uuid) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text = "GPU-";
  for (size_t i = 0; i < sizeof(uuid.bytes); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    const auto byte = static_cast<uint8_t>(uuid.bytes[i]);
    text += kDigits[byte / 16];
    text += kDigits[byte % 16];
  }
  return text;
}

// The digits alone: a MIG slice's UUID has another prefix, which the driver does not tell.
std::string Digits(std::string_view uuid) {
  std::string lower(uuid);
  absl::AsciiStrToLower(&lower);
  return lower.starts_with("gpu-") || lower.starts_with("mig-") ? lower.substr(4) : lower;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const DeviceContext>> DeviceContext::Open(std::string_view uuid) {
  absl::StatusOr<const CudaDriver*> loaded = LoadCudaDriver();
  if (!loaded.ok()) return loaded.status();
  const CudaDriver& driver = **loaded;
  int count = 0;
  if (absl::Status status = driver.ToStatus(driver.cuDeviceGetCount(&count), "cuDeviceGetCount"); !status.ok()) {
    return status;
  }
  std::vector<std::string> seen;
  std::shared_ptr<DeviceContext> found;
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    CUdevice device = 0;
    CUuuid bytes{};
    if (absl::Status status = driver.ToStatus(driver.cuDeviceGet(&device, ordinal), "cuDeviceGet"); !status.ok()) {
      return status;
    }
    if (absl::Status status = driver.ToStatus(driver.cuDeviceGetUuid(&bytes, device), "cuDeviceGetUuid");
        !status.ok()) {
      return status;
    }
    seen.push_back(ToText(bytes));
    const bool wanted = uuid.empty() ? count == 1 : Digits(uuid) == Digits(seen.back());
    if (wanted) found.reset(new DeviceContext(driver, ordinal, device, seen.back()));
  }
  if (found == nullptr) {
    const std::string devices = absl::StrJoin(seen, ", ");
    return uuid.empty()
               ? absl::NotFoundError("this process sees several CUDA devices; name one of " + devices)
               : absl::NotFoundError("this process sees no CUDA device " + std::string(uuid) + ", only " + devices);
  }
  if (absl::Status status = found->CheckAndRetain(); !status.ok()) return status;
  return found;
}

absl::Status DeviceContext::CheckAndRetain() {
  for (const CUdevice_attribute attribute :
       {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
        CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED}) {
    int supported = 0;
    const CUresult result = driver_.cuDeviceGetAttribute(&supported, attribute, device_);
    if (absl::Status status = driver_.ToStatus(result, "cuDeviceGetAttribute"); !status.ok()) return status;
    if (supported == 0) {
      return absl::FailedPreconditionError("CUDA device " + uuid_ +
                                           " cannot share memory as descriptors: it lacks device attribute " +
                                           std::to_string(static_cast<int>(attribute)));
    }
  }
  CUcontext context = nullptr;
  const CUresult result = driver_.cuDevicePrimaryCtxRetain(&context, device_);
  if (absl::Status status = driver_.ToStatus(result, "cuDevicePrimaryCtxRetain"); !status.ok()) return status;
  context_ = context;
  return absl::OkStatus();
}

DeviceContext::~DeviceContext() {
  if (context_ != nullptr) driver_.cuDevicePrimaryCtxRelease(device_);
}

absl::StatusOr<uint64_t> DeviceContext::FreeBytes() const {
  const Scope scope(*this);
  if (!scope.status().ok()) return scope.status();
  size_t free = 0;
  size_t total = 0;
  if (absl::Status status = driver_.ToStatus(driver_.cuMemGetInfo(&free, &total), "cuMemGetInfo"); !status.ok()) {
    return status;
  }
  return free;
}

DeviceContext::Scope::Scope(const DeviceContext& context)
    : context_(context),
      status_(context.driver_.ToStatus(context.driver_.cuCtxPushCurrent(context.context_), "cuCtxPushCurrent")) {}

DeviceContext::Scope::~Scope() {
  CUcontext popped;
  if (status_.ok()) context_.driver_.cuCtxPopCurrent(&popped);
}

}  // namespace kvsteward
