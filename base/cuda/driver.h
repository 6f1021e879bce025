// The CUDA driver's functions, looked up at run time: the binary starts on machines that have no driver. Its names are
// the driver's own; kvsteward/engine's kernels use the runtime beside it, in the same primary context.
#pragma once

#include <cuda.h>

#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Functions of the driver that we call: the names in cuda.h, which its macros turn into versioned ones.
// clang-format off
#define KVS_CUDA_FUNCTIONS(X)                                                                   \
  X(cuInit) X(cuGetErrorName) X(cuGetErrorString)                                               \
  X(cuDeviceGetCount) X(cuDeviceGet) X(cuDeviceGetUuid) X(cuDeviceGetAttribute)                 \
  X(cuDevicePrimaryCtxRetain) X(cuDevicePrimaryCtxRelease) X(cuCtxPushCurrent) X(cuCtxPopCurrent) \
  X(cuStreamCreate) X(cuStreamDestroy) X(cuStreamSynchronize)                                   \
  X(cuMemGetInfo) X(cuMemGetAllocationGranularity) X(cuMemAddressReserve) X(cuMemAddressFree)   \
  X(cuMemCreate) X(cuMemRelease) X(cuMemMap) X(cuMemUnmap) X(cuMemSetAccess) X(cuMemsetD8Async) \
  X(cuMemExportToShareableHandle) X(cuMemImportFromShareableHandle)                             \
  X(cuMemcpyHtoDAsync) X(cuMemcpyDtoHAsync)                                                     \
  X(cuMemHostRegister) X(cuMemHostUnregister) X(cuMemHostGetDevicePointer)
// clang-format on

namespace kvsteward {

// Thread-safe: functions are found once and never change.
struct CudaDriver {
#define KVS_CUDA_MEMBER(name) decltype(&::name) name = nullptr;
  KVS_CUDA_FUNCTIONS(KVS_CUDA_MEMBER)
#undef KVS_CUDA_MEMBER

  // OK for CUDA_SUCCESS. Otherwise "<what> failed: <the driver's name and words for it>": RESOURCE_EXHAUSTED if memory
  // ran out, FAILED_PRECONDITION if the machine or its set-up cannot do it, INVALID_ARGUMENT if the call was wrong, and
  // UNAVAILABLE for the rest: the device is lost to this process.
  absl::Status ToStatus(CUresult result, std::string_view what) const;
};

// The driver, initialised. It stays loaded until the process ends. FAILED_PRECONDITION, always the same, if there is
// none, if it is too old, or if it finds no device. A process that forks must do so before.
absl::StatusOr<const CudaDriver*> LoadCudaDriver();

}  // namespace kvsteward
