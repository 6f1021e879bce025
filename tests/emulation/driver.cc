// libcuda.so.1 for machines without a GPU: one device, whose memory is memfds that processes map. Errors are the
// driver's for calls that are wrong; kernels are not its business (runtime.cc). Thread-safe.
#include <cuda.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <bit>
#include <cstring>
#include <map>
#include <vector>

#include "base/mutex.h"
#include "tests/emulation/device.h"
#include "tests/emulation/device_usage.h"
#include "tests/emulation/fibers.h"

#define KVS_EXPORT __attribute__((visibility("default")))

namespace {

using kvsteward::Mutex;
using kvsteward::MutexLock;
using kvsteward::emulation::DeviceBytes;

constexpr uint64_t kGranularity = uint64_t{2} << 20;

struct Object {
  int descriptor;
  uint64_t bytes;
  bool exportable;
};

struct Driver {
  std::atomic<bool> initialised = false;
  Mutex mutex;
  uint64_t next_handle KVS_GUARDED_BY(mutex) = 0x1000;
  std::map<uint64_t, Object> objects KVS_GUARDED_BY(mutex);          // by handle
  std::map<CUdeviceptr, uint64_t> ranges KVS_GUARDED_BY(mutex);      // reserved: bytes by address
  std::map<CUdeviceptr, uint64_t> mappings KVS_GUARDED_BY(mutex);    // likewise, within ranges
  std::map<CUdeviceptr, uint64_t> registered KVS_GUARDED_BY(mutex);  // likewise, of the host's memory
};

Driver& Cuda() {  // outlives every caller
  static Driver& driver = *new Driver;
  return driver;
}

thread_local std::vector<CUcontext> contexts;  // the current one last
int primary;                                   // its address is the primary context's

bool IsMultiple(uint64_t bytes) { return bytes > 0 && bytes % kGranularity == 0; }
void* At(CUdeviceptr address) { return reinterpret_cast<void*>(address); }

// Whether [address, address + bytes) lies in one entry.
bool IsWithin(const std::map<CUdeviceptr, uint64_t>& entries, CUdeviceptr address, uint64_t bytes) {
  const auto next = entries.upper_bound(address);
  if (next == entries.begin()) return false;
  const auto& [begin, size] = *std::prev(next);
  return address - begin <= size && bytes <= size - (address - begin);
}

// Whether the device has memory everywhere there.
bool IsMapped(CUdeviceptr address, uint64_t bytes) {
  const MutexLock lock(Cuda().mutex);
  return IsWithin(Cuda().mappings, address, bytes);
}

// Whether the entries from `address` on are `bytes` long together, without a gap.
bool AreWhole(const std::map<CUdeviceptr, uint64_t>& entries, CUdeviceptr address, uint64_t bytes) {
  for (auto entry = entries.find(address); bytes > 0; ++entry) {
    if (entry == entries.end() || entry->first != address || entry->second > bytes) return false;
    address += entry->second;
    bytes -= entry->second;
  }
  return true;
}

bool Overlaps(const std::map<CUdeviceptr, uint64_t>& entries, CUdeviceptr address, uint64_t bytes) {
  const auto next = entries.lower_bound(address + bytes);
  if (next == entries.begin()) return false;
  const auto& [begin, size] = *std::prev(next);
  return begin + size > address;
}

// Takes the memory and fills it as memory of others is found.
int MakeMemory(uint64_t bytes) {
  const int descriptor = memfd_create(kvsteward::emulation::ObjectName(bytes).c_str(), MFD_CLOEXEC);
  if (descriptor < 0) return -1;
  void* data = MAP_FAILED;
  if (ftruncate(descriptor, static_cast<off_t>(bytes)) == 0) {
    data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  }
  if (data == MAP_FAILED) {
    close(descriptor);
    return -1;
  }
  std::memset(data, kvsteward::emulation::kPoison, bytes);
  munmap(data, bytes);
  return descriptor;
}

CUresult CheckReady() { return Cuda().initialised ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED; }
CUresult CheckContext() {
  if (!Cuda().initialised) return CUDA_ERROR_NOT_INITIALIZED;
  return contexts.empty() ? CUDA_ERROR_INVALID_CONTEXT : CUDA_SUCCESS;
}

CUresult CheckProperties(const CUmemAllocationProp* properties) {
  if (const CUresult result = CheckReady(); result != CUDA_SUCCESS) return result;
  if (properties == nullptr || properties->type != CU_MEM_ALLOCATION_TYPE_PINNED) return CUDA_ERROR_INVALID_VALUE;
  if (properties->location.type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_INVALID_VALUE;
  if (properties->location.id != 0) return CUDA_ERROR_INVALID_DEVICE;
  const CUmemAllocationHandleType type = properties->requestedHandleTypes;
  const bool known = type == CU_MEM_HANDLE_TYPE_NONE || type == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  return known ? CUDA_SUCCESS : CUDA_ERROR_NOT_SUPPORTED;
}

struct Words {
  CUresult result;
  const char* name;
  const char* text;
};
constexpr Words kWords[] = {
    {CUDA_SUCCESS, "CUDA_SUCCESS", "no error"},
    {CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {CUDA_ERROR_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {CUDA_ERROR_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {CUDA_ERROR_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {CUDA_ERROR_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
     "part or all of the requested memory range is already mapped"},
    {CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED",
     "pointer does not correspond to a registered memory region"},
    {CUDA_ERROR_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
};
const Words* Find(CUresult result) {
  for (const Words& words : kWords) {
    if (words.result == result) return &words;
  }
  return nullptr;
}

}  // namespace

extern "C" {

// ---- Errors, the device and its context
// ------------------------------------------------------------------------------
KVS_EXPORT CUresult cuInit(unsigned flags) {
  if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
  Cuda().initialised = true;
  return CUDA_SUCCESS;
}

KVS_EXPORT CUresult cuGetErrorName(CUresult error, const char** text) {
  const Words* const words = Find(error);
  *text = words == nullptr ? nullptr : words->name;
  return words == nullptr ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

KVS_EXPORT CUresult cuGetErrorString(CUresult error, const char** text) {
  const Words* const words = Find(error);
  *text = words == nullptr ? nullptr : words->text;
  return words == nullptr ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

KVS_EXPORT CUresult cuDeviceGetCount(int* count) {
  *count = 1;
  return CheckReady();
}

KVS_EXPORT CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  if (const CUresult result = CheckReady(); result != CUDA_SUCCESS) return result;
  *device = 0;
  return ordinal == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

KVS_EXPORT CUresult cuDeviceGetUuid(CUuuid* uuid, CUdevice device) {
  if (const CUresult result = CheckReady(); result != CUDA_SUCCESS) return result;
  if (device != 0) return CUDA_ERROR_INVALID_DEVICE;
  std::memcpy(uuid->bytes, kvsteward::emulation::kDeviceUuid, sizeof(uuid->bytes));
  return CUDA_SUCCESS;
}

KVS_EXPORT CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
  if (const CUresult result = CheckReady(); result != CUDA_SUCCESS) return result;
  if (device != 0) return CUDA_ERROR_INVALID_DEVICE;
  switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED:
      *value = 1;
      return CUDA_SUCCESS;
  }
  return CUDA_ERROR_INVALID_VALUE;
}

KVS_EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  if (const CUresult result = CheckReady(); result != CUDA_SUCCESS) return result;
  if (device != 0) return CUDA_ERROR_INVALID_DEVICE;
  *context = reinterpret_cast<CUcontext>(&primary);
  return CUDA_SUCCESS;
}

KVS_EXPORT CUresult cuDevicePrimaryCtxRelease(CUdevice device) {
  if (const CUresult result = CheckReady(); result != CUDA_SUCCESS) return result;
  return device == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

KVS_EXPORT CUresult cuCtxPushCurrent(CUcontext context) {
  if (const CUresult result = CheckReady(); result != CUDA_SUCCESS) return result;
  if (context != reinterpret_cast<CUcontext>(&primary)) return CUDA_ERROR_INVALID_CONTEXT;
  contexts.push_back(context);
  return CUDA_SUCCESS;
}

KVS_EXPORT CUresult cuCtxPopCurrent(CUcontext* context) {
  if (const CUresult result = CheckContext(); result != CUDA_SUCCESS) return result;
  if (context != nullptr) *context = contexts.back();
  contexts.pop_back();
  return CUDA_SUCCESS;
}

// ---- Streams: what is asked for is done at once
// ----------------------------------------------------------------------
KVS_EXPORT CUresult cuStreamCreate(CUstream* stream, unsigned flags) {
  if (const CUresult result = CheckContext(); result != CUDA_SUCCESS) return result;
  if (flags > CU_STREAM_NON_BLOCKING) return CUDA_ERROR_INVALID_VALUE;
  *stream = reinterpret_cast<CUstream>(new char);
  return CUDA_SUCCESS;
}

KVS_EXPORT CUresult cuStreamDestroy(CUstream stream) {
  if (stream == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  delete reinterpret_cast<char*>(stream);
  return CUDA_SUCCESS;
}

KVS_EXPORT CUresult cuStreamSynchronize(CUstream) { return CheckContext(); }

KVS_EXPORT CUresult cuMemsetD8Async(CUdeviceptr address, unsigned char value, size_t bytes, CUstream) {
  if (const CUresult result = CheckContext(); result != CUDA_SUCCESS) return result;
  std::memset(At(address), value, bytes);
  return CUDA_SUCCESS;
}

// Within one allocation.
KVS_EXPORT CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t bytes, CUstream) {
  if (const CUresult result = CheckContext(); result != CUDA_SUCCESS) return result;
  if (!IsMapped(to, bytes)) return CUDA_ERROR_INVALID_VALUE;
  std::memcpy(At(to), from, bytes);
  return CUDA_SUCCESS;
}

KVS_EXPORT CUresult cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t bytes, CUstream) {
  if (const CUresult result = CheckContext(); result != CUDA_SUCCESS) return result;
  if (!IsMapped(from, bytes)) return CUDA_ERROR_INVALID_VALUE;
  std::memcpy(to, At(from), bytes);
  return CUDA_SUCCESS;
}

// ---- The host's memory: the device finds it where the host does
// ------------------------------------------------------
KVS_EXPORT CUresult cuMemHostRegister(void* data, size_t bytes, unsigned flags) {
  if (const CUresult result = CheckContext(); result != CUDA_SUCCESS) return result;
  if (bytes == 0 || flags > (CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  const auto address = reinterpret_cast<CUdeviceptr>(data);
  const MutexLock lock(Cuda().mutex);
  if (Overlaps(Cuda().registered, address, bytes)) return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
  Cuda().registered[address] = bytes;
  return CUDA_SUCCESS;
}

KVS_EXPORT CUresult cuMemHostUnregister(void* data) {
  if (const CUresult result = CheckContext(); result != CUDA_SUCCESS) return result;
  const MutexLock lock(Cuda().mutex);
  const bool known = Cuda().registered.erase(reinterpret_cast<CUdeviceptr>(data)) == 1;
  return known ? CUDA_SUCCESS : CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
}

KVS_EXPORT CUresult cuMemHostGetDevicePointer(CUdeviceptr* address, void* data, unsigned flags) {
  if (const CUresult result = CheckContext(); result != CUDA_SUCCESS) return result;
  const MutexLock lock(Cuda().mutex);
  *address = reinterpret_cast<CUdeviceptr>(data);
  return flags == 0 && IsWithin(Cuda().registered, *address, 1) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

// ---- Memory
// ----------------------------------------------------------------------------------------------------------
KVS_EXPORT CUresult cuMemGetInfo(size_t* free, size_t* total) {
  if (const CUresult result = CheckContext(); result != CUDA_SUCCESS) return result;
  const uint64_t used = kvsteward::emulation::UsedBytes();
  *total = DeviceBytes();
  *free = used > *total ? 0 : *total - used;
  return CUDA_SUCCESS;
}

KVS_EXPORT CUresult cuMemGetAllocationGranularity(size_t* granularity, const CUmemAllocationProp* properties,
                                                  CUmemAllocationGranularity_flags) {
  if (const CUresult result = CheckProperties(properties); result != CUDA_SUCCESS) return result;
  *granularity = kGranularity;
  return CUDA_SUCCESS;
}

KVS_EXPORT CUresult cuMemAddressReserve(CUdeviceptr* address, size_t bytes, size_t alignment, CUdeviceptr,
                                        unsigned long long flags) {
  if (const CUresult result = CheckReady(); result != CUDA_SUCCESS) return result;
  if (!IsMultiple(bytes) || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  if (alignment != 0 && !std::has_single_bit(alignment)) return CUDA_ERROR_INVALID_VALUE;
  const uint64_t aligned = alignment > kGranularity ? alignment : kGranularity;
  if (bytes + aligned < bytes) return CUDA_ERROR_OUT_OF_MEMORY;
  void* const wide = mmap(nullptr, bytes + aligned, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (wide == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
  const auto begin = reinterpret_cast<CUdeviceptr>(wide);
  *address = (begin + aligned - 1) / aligned * aligned;
  if (*address > begin) munmap(wide, *address - begin);
  munmap(At(*address + bytes), begin + aligned - *address);
  const MutexLock lock(Cuda().mutex);
  Cuda().ranges[*address] = bytes;
  return CUDA_SUCCESS;
}

KVS_EXPORT CUresult cuMemAddressFree(CUdeviceptr address, size_t bytes) {
  if (const CUresult result = CheckReady(); result != CUDA_SUCCESS) return result;
  const MutexLock lock(Cuda().mutex);
  const auto found = Cuda().ranges.find(address);
  if (found == Cuda().ranges.end() || found->second != bytes) return CUDA_ERROR_INVALID_VALUE;
  if (Overlaps(Cuda().mappings, address, bytes)) return CUDA_ERROR_INVALID_VALUE;
  Cuda().ranges.erase(found);
  munmap(At(address), bytes);
  return CUDA_SUCCESS;
}

KVS_EXPORT CUresult cuMemCreate(CUmemGenericAllocationHandle* handle, size_t bytes,
                                const CUmemAllocationProp* properties, unsigned long long flags) {
  if (const CUresult result = CheckProperties(properties); result != CUDA_SUCCESS) return result;
  if (!IsMultiple(bytes) || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  const uint64_t used = kvsteward::emulation::UsedBytes();
  if (used > DeviceBytes() || bytes > DeviceBytes() - used) return CUDA_ERROR_OUT_OF_MEMORY;
  const int descriptor = MakeMemory(bytes);
  if (descriptor < 0) return CUDA_ERROR_OUT_OF_MEMORY;
  const MutexLock lock(Cuda().mutex);
  *handle = ++Cuda().next_handle;
  Cuda().objects[*handle] = {descriptor, bytes, properties->requestedHandleTypes != CU_MEM_HANDLE_TYPE_NONE};
  return CUDA_SUCCESS;
}

KVS_EXPORT CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
  if (const CUresult result = CheckReady(); result != CUDA_SUCCESS) return result;
  const MutexLock lock(Cuda().mutex);
  const auto found = Cuda().objects.find(handle);
  if (found == Cuda().objects.end()) return CUDA_ERROR_INVALID_VALUE;
  close(found->second.descriptor);  // mappings and exported descriptors keep the memory
  Cuda().objects.erase(found);
  return CUDA_SUCCESS;
}

KVS_EXPORT CUresult cuMemMap(CUdeviceptr address, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle,
                             unsigned long long flags) {
  if (const CUresult result = CheckReady(); result != CUDA_SUCCESS) return result;
  if (!IsMultiple(bytes) || address % kGranularity != 0 || offset != 0 || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  const MutexLock lock(Cuda().mutex);
  const auto found = Cuda().objects.find(handle);
  if (found == Cuda().objects.end() || bytes > found->second.bytes) return CUDA_ERROR_INVALID_VALUE;
  if (!IsWithin(Cuda().ranges, address, bytes)) return CUDA_ERROR_INVALID_VALUE;
  if (Overlaps(Cuda().mappings, address, bytes)) return CUDA_ERROR_INVALID_VALUE;
  // Nobody may touch it before cuMemSetAccess.
  if (mmap(At(address), bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, found->second.descriptor, 0) == MAP_FAILED) {
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  Cuda().mappings[address] = bytes;
  return CUDA_SUCCESS;
}

KVS_EXPORT CUresult cuMemUnmap(CUdeviceptr address, size_t bytes) {
  if (const CUresult result = CheckReady(); result != CUDA_SUCCESS) return result;
  const MutexLock lock(Cuda().mutex);
  if (bytes == 0 || !AreWhole(Cuda().mappings, address, bytes)) return CUDA_ERROR_INVALID_VALUE;
  Cuda().mappings.erase(Cuda().mappings.find(address), Cuda().mappings.lower_bound(address + bytes));
  mmap(At(address), bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  return CUDA_SUCCESS;
}

KVS_EXPORT CUresult cuMemSetAccess(CUdeviceptr address, size_t bytes, const CUmemAccessDesc* descriptions,
                                   size_t count) {
  if (const CUresult result = CheckReady(); result != CUDA_SUCCESS) return result;
  if (count != 1 || descriptions->location.type != CU_MEM_LOCATION_TYPE_DEVICE) return CUDA_ERROR_INVALID_VALUE;
  if (descriptions->location.id != 0) return CUDA_ERROR_INVALID_DEVICE;
  const MutexLock lock(Cuda().mutex);
  if (bytes == 0 || !AreWhole(Cuda().mappings, address, bytes)) return CUDA_ERROR_INVALID_VALUE;
  int protection = PROT_NONE;
  if ((descriptions->flags & CU_MEM_ACCESS_FLAGS_PROT_READ) != 0) protection |= PROT_READ;
  if (descriptions->flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE) protection |= PROT_WRITE;
  return mprotect(At(address), bytes, protection) == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

KVS_EXPORT CUresult cuMemExportToShareableHandle(void* to, CUmemGenericAllocationHandle handle,
                                                 CUmemAllocationHandleType type, unsigned long long flags) {
  if (const CUresult result = CheckReady(); result != CUDA_SUCCESS) return result;
  if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  const MutexLock lock(Cuda().mutex);
  const auto found = Cuda().objects.find(handle);
  if (found == Cuda().objects.end() || !found->second.exportable) return CUDA_ERROR_INVALID_VALUE;
  const int descriptor = dup(found->second.descriptor);
  if (descriptor < 0) return CUDA_ERROR_OUT_OF_MEMORY;
  *static_cast<int*>(to) = descriptor;
  return CUDA_SUCCESS;
}

KVS_EXPORT CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle* handle, void* from,
                                                   CUmemAllocationHandleType type) {
  if (const CUresult result = CheckReady(); result != CUDA_SUCCESS) return result;
  if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) return CUDA_ERROR_INVALID_VALUE;
  const auto theirs = static_cast<int>(reinterpret_cast<intptr_t>(from));
  const uint64_t bytes = kvsteward::emulation::ObjectBytes(theirs);
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  const int descriptor = fcntl(theirs, F_DUPFD_CLOEXEC, 0);
  if (descriptor < 0) return CUDA_ERROR_OUT_OF_MEMORY;
  const MutexLock lock(Cuda().mutex);
  *handle = ++Cuda().next_handle;
  Cuda().objects[*handle] = {descriptor, bytes, true};
  return CUDA_SUCCESS;
}

}  // extern "C"
