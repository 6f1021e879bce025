// The runtime API over host memory. Calls are checked as CUDA checks them; what is asynchronous is done when it is
// called.
#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>

#include "base/mutex.h"
#include "tests/emulation/device.h"
#include "tests/emulation/faults.h"
#include "tests/emulation/fibers.h"
#include "tests/emulation/functions.h"

struct CUstream_st {};
struct CUevent_st {};

namespace kvsteward::emulation {
namespace {

constexpr size_t kAlignment = 256;
constexpr size_t kMapped = size_t{256} << 20;  // as large as that it is mapped, not poisoned: pages come when used
constexpr size_t kSharedBytes = size_t{48} << 10;
constexpr size_t kSharedBytesOptIn = size_t{227} << 10;

enum class Kind { kDevice, kHost, kRegistered };

struct Block {
  size_t bytes;
  Kind kind;
};

int64_t FirstCount() {
  const char* const count = std::getenv("KVSTEWARD_EMULATED_ALLOCATIONS");
  return count == nullptr ? -1 : std::strtoll(count, nullptr, 0);
}

struct State {
  Mutex mutex;
  std::map<uintptr_t, Block> blocks KVS_GUARDED_BY(mutex);
  size_t device_bytes KVS_GUARDED_BY(mutex) = 0;  // of those of kind kDevice
  int64_t allocations_left KVS_GUARDED_BY(mutex) = FirstCount();
  bool lost KVS_GUARDED_BY(mutex) = false;
  std::map<const void*, size_t> most_shared KVS_GUARDED_BY(mutex);
  std::set<const void*> handles KVS_GUARDED_BY(mutex);  // live streams and events
};

State& Runtime() {  // outlives every caller
  static State& state = *new State;
  return state;
}

thread_local cudaError_t last_error = cudaSuccess;

void* TakeMemory(size_t bytes) {
  if (bytes >= kMapped) {
    void* const mapped =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return mapped == MAP_FAILED ? nullptr : mapped;
  }
  void* data = nullptr;
  if (posix_memalign(&data, kAlignment, bytes) != 0) return nullptr;
  std::memset(data, kPoison, bytes);
  return data;
}

void GiveMemory(void* data, size_t bytes) {
  if (bytes >= kMapped) {
    munmap(data, bytes);
  } else {
    std::free(data);
  }
}

cudaError_t Allocate(void** data, size_t bytes, Kind kind) {
  if (data == nullptr) return Note(cudaErrorInvalidValue);
  *data = nullptr;
  if (bytes == 0) return cudaSuccess;
  State& state = Runtime();
  const MutexLock lock(state.mutex);
  if (state.allocations_left == 0) return Note(cudaErrorMemoryAllocation);
  if (kind == Kind::kDevice && bytes > DeviceBytes() - state.device_bytes) return Note(cudaErrorMemoryAllocation);
  void* const taken = TakeMemory(bytes);
  if (taken == nullptr) return Note(cudaErrorMemoryAllocation);
  if (state.allocations_left > 0) --state.allocations_left;
  if (kind == Kind::kDevice) state.device_bytes += bytes;
  state.blocks[reinterpret_cast<uintptr_t>(taken)] = {bytes, kind};
  *data = taken;
  return cudaSuccess;
}

cudaError_t Release(void* data, Kind kind) {
  if (data == nullptr) return cudaSuccess;
  State& state = Runtime();
  const MutexLock lock(state.mutex);
  const auto found = state.blocks.find(reinterpret_cast<uintptr_t>(data));
  if (found == state.blocks.end() || found->second.kind != kind) return Note(cudaErrorInvalidValue);
  if (kind == Kind::kDevice) state.device_bytes -= found->second.bytes;
  GiveMemory(data, found->second.bytes);
  state.blocks.erase(found);
  return cudaSuccess;
}

cudaError_t CheckCopy(const void* to, const void* from, cudaMemcpyKind kind) {
  if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault) return Note(cudaErrorInvalidMemcpyDirection);
  return to == nullptr || from == nullptr ? Note(cudaErrorInvalidValue) : cudaSuccess;
}

template <class T>
cudaError_t MakeHandle(T** handle) {
  if (handle == nullptr) return Note(cudaErrorInvalidValue);
  *handle = new T;
  State& state = Runtime();
  const MutexLock lock(state.mutex);
  state.handles.insert(*handle);
  return cudaSuccess;
}

cudaError_t CheckHandle(const void* handle, bool may_be_null) {
  if (handle == nullptr) return may_be_null ? cudaSuccess : Note(cudaErrorInvalidResourceHandle);
  State& state = Runtime();
  const MutexLock lock(state.mutex);
  if (state.lost) return Note(cudaErrorIllegalAddress);
  return state.handles.contains(handle) ? cudaSuccess : Note(cudaErrorInvalidResourceHandle);
}

template <class T>
cudaError_t EndHandle(T* handle) {
  if (const cudaError_t error = CheckHandle(handle, false); error != cudaSuccess) return error;
  State& state = Runtime();
  const MutexLock lock(state.mutex);
  state.handles.erase(handle);
  delete handle;
  return cudaSuccess;
}

cudaError_t CheckDevice(int device) { return device == 0 ? cudaSuccess : Note(cudaErrorInvalidDevice); }

}  // namespace

cudaError_t Note(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

size_t MostDynamicShared(const void* kernel) {
  State& state = Runtime();
  const MutexLock lock(state.mutex);
  const auto found = state.most_shared.find(kernel);
  return found == state.most_shared.end() ? kSharedBytes : found->second;
}

void FailAllocationsAfter(int64_t count) {
  State& state = Runtime();
  const MutexLock lock(state.mutex);
  state.allocations_left = count;
}

void LoseDevice(bool lost) {
  State& state = Runtime();
  const MutexLock lock(state.mutex);
  state.lost = lost;
}

}  // namespace kvsteward::emulation

using kvsteward::MutexLock;
using kvsteward::emulation::Kind;
using kvsteward::emulation::Note;
using kvsteward::emulation::Runtime;

// ---- Errors
// ----------------------------------------------------------------------------------------------------------
const char* cudaGetErrorName(cudaError_t error) {
#define KVS_NAME(name) \
  case name:           \
    return #name;
  switch (error) {
    KVS_NAME(cudaSuccess)
    KVS_NAME(cudaErrorInvalidValue)
    KVS_NAME(cudaErrorMemoryAllocation)
    KVS_NAME(cudaErrorInitializationError)
    KVS_NAME(cudaErrorInvalidConfiguration)
    KVS_NAME(cudaErrorInvalidPitchValue)
    KVS_NAME(cudaErrorInvalidMemcpyDirection)
    KVS_NAME(cudaErrorInsufficientDriver)
    KVS_NAME(cudaErrorInvalidDeviceFunction)
    KVS_NAME(cudaErrorNoDevice)
    KVS_NAME(cudaErrorInvalidDevice)
    KVS_NAME(cudaErrorInvalidResourceHandle)
    KVS_NAME(cudaErrorNotReady)
    KVS_NAME(cudaErrorIllegalAddress)
    KVS_NAME(cudaErrorLaunchOutOfResources)
    KVS_NAME(cudaErrorHostMemoryAlreadyRegistered)
    KVS_NAME(cudaErrorHostMemoryNotRegistered)
    KVS_NAME(cudaErrorMisalignedAddress)
    KVS_NAME(cudaErrorLaunchFailure)
    KVS_NAME(cudaErrorNotPermitted)
    KVS_NAME(cudaErrorNotSupported)
    KVS_NAME(cudaErrorUnknown)
  }
#undef KVS_NAME
  return "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidValue:
      return "invalid argument";
    default:
      return cudaGetErrorName(error);
  }
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = kvsteward::emulation::last_error;
  kvsteward::emulation::last_error = cudaSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError() { return kvsteward::emulation::last_error; }

// ---- The device
// ------------------------------------------------------------------------------------------------------
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return kvsteward::emulation::CheckDevice(device); }
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (const cudaError_t error = kvsteward::emulation::CheckDevice(device); error != cudaSuccess) return error;
  *properties = {};
  std::memcpy(properties->name, kvsteward::emulation::kDeviceName, sizeof(kvsteward::emulation::kDeviceName));
  std::memcpy(properties->uuid.bytes, kvsteward::emulation::kDeviceUuid, sizeof(properties->uuid.bytes));
  properties->totalGlobalMem = kvsteward::emulation::DeviceBytes();
  properties->sharedMemPerBlock = kvsteward::emulation::kSharedBytes;
  properties->sharedMemPerBlockOptin = kvsteward::emulation::kSharedBytesOptIn;
  const std::pair<cudaDeviceAttr, int*> numbers[] = {
      {cudaDevAttrWarpSize, &properties->warpSize},
      {cudaDevAttrMaxThreadsPerBlock, &properties->maxThreadsPerBlock},
      {cudaDevAttrComputeCapabilityMajor, &properties->major},
      {cudaDevAttrComputeCapabilityMinor, &properties->minor},
      {cudaDevAttrMultiProcessorCount, &properties->multiProcessorCount},
      {cudaDevAttrL2CacheSize, &properties->l2CacheSize},
  };
  for (const auto& [attribute, value] : numbers) {
    if (const cudaError_t error = cudaDeviceGetAttribute(value, attribute, device); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (const cudaError_t error = kvsteward::emulation::CheckDevice(device); error != cudaSuccess) return error;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = 1024;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(kvsteward::emulation::kSharedBytes);
      break;
    case cudaDevAttrWarpSize:
      *value = warpSize;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = 132;
      break;
    case cudaDevAttrL2CacheSize:
      *value = 60 << 20;
      break;
    case cudaDevAttrUnifiedAddressing:
      *value = 1;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = 228 << 10;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(kvsteward::emulation::kSharedBytesOptIn);
      break;
    default:
      return Note(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const MutexLock lock(Runtime().mutex);
  *total = kvsteward::emulation::DeviceBytes();
  *free = *total - Runtime().device_bytes;
  return cudaSuccess;
}

// ---- Memory
// ----------------------------------------------------------------------------------------------------------
cudaError_t cudaMalloc(void** data, size_t bytes) { return kvsteward::emulation::Allocate(data, bytes, Kind::kDevice); }
cudaError_t cudaMallocManaged(void** data, size_t bytes, unsigned) { return cudaMalloc(data, bytes); }
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
  if (device != 0) return cudaErrorInvalidDevice;
  *pool = nullptr;  // it keeps nothing
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }

cudaError_t cudaMallocAsync(void** data, size_t bytes, cudaStream_t stream) {
  const cudaError_t error = kvsteward::emulation::CheckHandle(stream, true);
  return error == cudaSuccess ? cudaMalloc(data, bytes) : error;
}
cudaError_t cudaFree(void* data) { return kvsteward::emulation::Release(data, Kind::kDevice); }
cudaError_t cudaFreeAsync(void* data, cudaStream_t stream) {
  const cudaError_t error = kvsteward::emulation::CheckHandle(stream, true);
  return error == cudaSuccess ? cudaFree(data) : error;
}
cudaError_t cudaMallocHost(void** data, size_t bytes) {
  return kvsteward::emulation::Allocate(data, bytes, Kind::kHost);
}
cudaError_t cudaHostAlloc(void** data, size_t bytes, unsigned) { return cudaMallocHost(data, bytes); }
cudaError_t cudaFreeHost(void* data) { return kvsteward::emulation::Release(data, Kind::kHost); }

cudaError_t cudaHostRegister(void* data, size_t bytes, unsigned) {
  if (data == nullptr || bytes == 0) return Note(cudaErrorInvalidValue);
  const MutexLock lock(Runtime().mutex);
  auto& blocks = Runtime().blocks;
  const auto begin = reinterpret_cast<uintptr_t>(data);
  const auto next = blocks.lower_bound(begin + bytes);
  if (next != blocks.begin()) {
    const auto& [address, before] = *std::prev(next);
    if (address + before.bytes > begin) return Note(cudaErrorHostMemoryAlreadyRegistered);
  }
  blocks[begin] = {bytes, Kind::kRegistered};
  return cudaSuccess;
}

cudaError_t cudaHostUnregister(void* data) {
  const MutexLock lock(Runtime().mutex);
  const auto found = Runtime().blocks.find(reinterpret_cast<uintptr_t>(data));
  if (found == Runtime().blocks.end() || found->second.kind != Kind::kRegistered) {
    return Note(cudaErrorHostMemoryNotRegistered);
  }
  Runtime().blocks.erase(found);
  return cudaSuccess;
}

cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned flags) {
  if (device == nullptr || flags != 0) return Note(cudaErrorInvalidValue);
  const MutexLock lock(Runtime().mutex);
  const auto next = Runtime().blocks.upper_bound(reinterpret_cast<uintptr_t>(host));
  if (next == Runtime().blocks.begin()) return Note(cudaErrorInvalidValue);
  const auto& [address, block] = *std::prev(next);
  if (block.kind == Kind::kDevice || reinterpret_cast<uintptr_t>(host) - address >= block.bytes) {
    return Note(cudaErrorInvalidValue);
  }
  *device = host;
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  if (bytes == 0) return cudaSuccess;
  if (const cudaError_t error = kvsteward::emulation::CheckCopy(to, from, kind); error != cudaSuccess) return error;
  std::memmove(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  const cudaError_t error = kvsteward::emulation::CheckHandle(stream, true);
  return error == cudaSuccess ? cudaMemcpy(to, from, bytes, kind) : error;
}

cudaError_t cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height,
                         cudaMemcpyKind kind) {
  if (width == 0 || height == 0) return cudaSuccess;
  if (const cudaError_t error = kvsteward::emulation::CheckCopy(to, from, kind); error != cudaSuccess) return error;
  if (width > to_pitch || width > from_pitch) return Note(cudaErrorInvalidPitchValue);
  for (size_t row = 0; row < height; ++row) {
    std::memmove(static_cast<char*>(to) + row * to_pitch, static_cast<const char*>(from) + row * from_pitch, width);
  }
  return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  const cudaError_t error = kvsteward::emulation::CheckHandle(stream, true);
  return error == cudaSuccess ? cudaMemcpy2D(to, to_pitch, from, from_pitch, width, height, kind) : error;
}

cudaError_t cudaMemset(void* data, int value, size_t bytes) {
  if (bytes == 0) return cudaSuccess;
  if (data == nullptr) return Note(cudaErrorInvalidValue);
  std::memset(data, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream) {
  const cudaError_t error = kvsteward::emulation::CheckHandle(stream, true);
  return error == cudaSuccess ? cudaMemset(data, value, bytes) : error;
}

// ---- Streams and events
// ----------------------------------------------------------------------------------------------
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return kvsteward::emulation::MakeHandle(stream); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return cudaStreamCreate(stream); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return kvsteward::emulation::EndHandle(stream); }
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return kvsteward::emulation::CheckHandle(stream, true); }
cudaError_t cudaStreamQuery(cudaStream_t stream) { return kvsteward::emulation::CheckHandle(stream, true); }
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const cudaError_t error = kvsteward::emulation::CheckHandle(stream, true);
  return error == cudaSuccess ? kvsteward::emulation::CheckHandle(event, false) : error;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) { return kvsteward::emulation::MakeHandle(event); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return cudaEventCreate(event); }
cudaError_t cudaEventDestroy(cudaEvent_t event) { return kvsteward::emulation::EndHandle(event); }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) { return cudaStreamWaitEvent(stream, event, 0); }
cudaError_t cudaEventQuery(cudaEvent_t event) { return kvsteward::emulation::CheckHandle(event, false); }
cudaError_t cudaEventSynchronize(cudaEvent_t event) { return kvsteward::emulation::CheckHandle(event, false); }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  if (const cudaError_t error = kvsteward::emulation::CheckHandle(begin, false); error != cudaSuccess) return error;
  *milliseconds = 0;
  return kvsteward::emulation::CheckHandle(end, false);
}

// ---- Kernels
// ---------------------------------------------------------------------------------------------------------
cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  if (function == nullptr) return Note(cudaErrorInvalidDeviceFunction);
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
      static_cast<size_t>(value) > kvsteward::emulation::kSharedBytesOptIn) {
    return Note(cudaErrorInvalidValue);
  }
  const MutexLock lock(Runtime().mutex);
  Runtime().most_shared[function] = static_cast<size_t>(value);
  return cudaSuccess;
}
