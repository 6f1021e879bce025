#include "base/cuda/driver.h"

#include <dlfcn.h>

#include <string>

namespace kvsteward {
namespace {

// What cuda.h makes of a name, as text: "cuMemGetInfo_v2" for cuMemGetInfo.
#define KVS_TEXT(name) #name
#define KVS_SYMBOL(name) KVS_TEXT(name)

absl::Status NoDriver(const std::string& why) {
  return absl::FailedPreconditionError("CUDA cannot be used on this machine: " + why);
}

absl::StatusOr<const CudaDriver*> Load() {
  // Never closed: the driver has threads and exit handlers of its own.
  void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* const error = dlerror();
    return NoDriver(std::string("its driver was not found (") + (error == nullptr ? "dlopen failed" : error) + ")");
  }
  static CudaDriver driver;
#define KVS_CUDA_FIND(name)                                                                \
  driver.name = reinterpret_cast<decltype(driver.name)>(dlsym(library, KVS_SYMBOL(name))); \
  if (driver.name == nullptr) return NoDriver("its driver is too old, it has no " + std::string(KVS_SYMBOL(name)));
  KVS_CUDA_FUNCTIONS(KVS_CUDA_FIND)
#undef KVS_CUDA_FIND

  if (absl::Status status = driver.ToStatus(driver.cuInit(0), "cuInit"); !status.ok()) {
    return NoDriver(std::string(status.message()));
  }
  int devices = 0;
  if (absl::Status status = driver.ToStatus(driver.cuDeviceGetCount(&devices), "cuDeviceGetCount"); !status.ok()) {
    return NoDriver(std::string(status.message()));
  }
  if (devices == 0) return NoDriver("it has no device that this process may see");
  return &driver;
}

}  // namespace

absl::Status CudaDriver::ToStatus(CUresult result, std::string_view what) const {
  if (result == CUDA_SUCCESS) return absl::OkStatus();
  const char* name = nullptr;
  const char* words = nullptr;
  std::string text = std::string(what) + " failed: ";
  if (cuGetErrorName(result, &name) == CUDA_SUCCESS && cuGetErrorString(result, &words) == CUDA_SUCCESS) {
    text += std::string(name) + ", " + words;
  } else {
    text += "error " + std::to_string(static_cast<int>(result));
  }
  switch (result) {
    case CUDA_ERROR_OUT_OF_MEMORY:
      return absl::ResourceExhaustedError(text);
    case CUDA_ERROR_INVALID_VALUE:
    case CUDA_ERROR_INVALID_HANDLE:
      return absl::InvalidArgumentError(text);
    case CUDA_ERROR_NO_DEVICE:
    case CUDA_ERROR_INVALID_DEVICE:
    case CUDA_ERROR_NOT_PERMITTED:
    case CUDA_ERROR_NOT_SUPPORTED:
    case CUDA_ERROR_SYSTEM_NOT_READY:
    case CUDA_ERROR_SYSTEM_DRIVER_MISMATCH:
    case CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE:
      return absl::FailedPreconditionError(text);
    default:
      return absl::UnavailableError(text);
  }
}

absl::StatusOr<const CudaDriver*> LoadCudaDriver() {
  static const absl::StatusOr<const CudaDriver*> driver = Load();
  return driver;
}

}  // namespace kvsteward
