#include "tests/gpu/vmm_side.h"

#include <cuda_runtime_api.h>
#include <fcntl.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/fd_passing.h"
#include "kernels/cuda/launch.h"
#include "service/memory/cuda/cuda_backend.h"

namespace kvsteward::gpu_test {
namespace {

using engine::cuda::Launch;
using memory::CudaBackend;

constexpr unsigned kGrid = 528, kThreads = 256;

__device__ uint64_t Pattern(uint64_t seed, uint64_t i) {
  uint64_t z = seed == 0 ? 0 : seed * 0x9e3779b97f4a7c15u + i;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

__global__ void WritePattern(uint64_t* words, uint64_t count, uint64_t seed) {
  const uint64_t step = uint64_t{gridDim.x} * blockDim.x;
  for (uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
    words[i] = Pattern(seed, i);
  }
}

__global__ void CountDifferent(const uint64_t* words, uint64_t count, uint64_t seed, unsigned long long* different) {
  const uint64_t step = uint64_t{gridDim.x} * blockDim.x;
  for (uint64_t i = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
    if (words[i] != Pattern(seed, i)) atomicAdd(different, 1ull);
  }
}

absl::Status FromRuntime(cudaError_t error) {
  return error == cudaSuccess ? absl::OkStatus() : absl::UnavailableError(cudaGetErrorString(error));
}

uint64_t Microseconds(std::chrono::steady_clock::time_point since) {
  const auto spent = std::chrono::steady_clock::now() - since;
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(spent).count());
}

// A worker's mapping of a descriptor that it was sent.
class Import {
 public:
  explicit Import(std::shared_ptr<const DeviceContext> context) : context_(std::move(context)) {}
  ~Import() {
    const DeviceContext::Scope scope(*context_);
    const CudaDriver& driver = context_->driver();
    if (mapped_) driver.cuMemUnmap(address_, bytes_);
    if (address_ != 0) driver.cuMemAddressFree(address_, bytes_);
  }

  absl::Status Map(int fd, uint64_t bytes) {
    const DeviceContext::Scope scope(*context_);
    const CudaDriver& driver = context_->driver();
    CUmemGenericAllocationHandle handle = 0;
    absl::Status status = driver.ToStatus(
        driver.cuMemImportFromShareableHandle(&handle, reinterpret_cast<void*>(static_cast<uintptr_t>(fd)),
                                              CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
        "cuMemImportFromShareableHandle");
    if (!status.ok()) return status;
    bytes_ = bytes;
    status.Update(driver.ToStatus(driver.cuMemAddressReserve(&address_, bytes, 0, 0, 0), "cuMemAddressReserve"));
    if (status.ok()) status.Update(driver.ToStatus(driver.cuMemMap(address_, bytes, 0, handle, 0), "cuMemMap"));
    mapped_ = status.ok();
    CUmemAccessDesc access{};
    access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    access.location.id = context_->ordinal();
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    if (status.ok())
      status.Update(driver.ToStatus(driver.cuMemSetAccess(address_, bytes, &access, 1), "cuMemSetAccess"));
    driver.cuMemRelease(handle);  // the mapping keeps the memory
    return status;
  }
  uint64_t* words() const { return reinterpret_cast<uint64_t*>(address_); }

 private:
  const std::shared_ptr<const DeviceContext> context_;
  CUdeviceptr address_ = 0;
  uint64_t bytes_ = 0;
  bool mapped_ = false;
};

class Side {
 public:
  explicit Side(int peer) : peer_(peer) {}

  absl::StatusOr<uint64_t> Do(const Command& command) {
    const auto start = std::chrono::steady_clock::now();
    switch (command.order) {
      case Order::kOpen:
        return Open();
      case Order::kFree:
        return backend_->FreeBytes();
      case Order::kCreate:
        return Timed(start, Create(command.value));
      case Order::kImport:
        return Timed(start, Receive(command.value));
      case Order::kRefuse: {
        const UniqueFd fd(open("/dev/null", O_RDWR | O_CLOEXEC));
        return Timed(start, Import(context_).Map(fd.get(), command.value));
      }
      case Order::kWrite:
        return Timed(start, WriteAll(command.value));
      case Order::kRead:
        return Read(command.value);
      case Order::kHammer:
        std::thread([this] { Hammer(); }).detach();
        return 0;
      case Order::kDrop:
        object_.reset();
        import_.reset();
        return Microseconds(start);
    }
    return absl::InvalidArgumentError("no such order");
  }

 private:
  static absl::StatusOr<uint64_t> Timed(std::chrono::steady_clock::time_point start, const absl::Status& status) {
    if (!status.ok()) return status;
    return Microseconds(start);
  }

  absl::StatusOr<uint64_t> Open() {
    absl::StatusOr<std::shared_ptr<const DeviceContext>> context = DeviceContext::Open("");
    if (!context.ok()) return context.status();
    context_ = *std::move(context);
    absl::StatusOr<std::unique_ptr<CudaBackend>> backend = CudaBackend::Open(context_);
    if (!backend.ok()) return backend.status();
    backend_ = *std::move(backend);
    absl::Status status = FromRuntime(cudaSetDevice(context_->ordinal()));
    status.Update(FromRuntime(cudaMalloc(reinterpret_cast<void**>(&different_), sizeof(*different_))));
    if (!status.ok()) return status;
    // The kernels are on the device before anyone measures what is free.
    auto* const words = reinterpret_cast<uint64_t*>(different_);
    status.Update(FromRuntime(Launch(WritePattern, 1, 1, 0, nullptr, words, 1, 0)));
    status.Update(FromRuntime(Launch(CountDifferent, 1, 1, 0, nullptr, words, 1, 0, different_)));
    status.Update(FromRuntime(cudaDeviceSynchronize()));
    return Timed(std::chrono::steady_clock::now(), status);
  }

  // In a reserved range of twice the size, at its second half.
  absl::Status Create(uint64_t bytes) {
    absl::StatusOr<std::unique_ptr<memory::AddressRange>> range = backend_->Reserve(2 * bytes);
    if (!range.ok()) return range.status();
    std::byte* const half = (*range)->data() + bytes;
    absl::StatusOr<std::unique_ptr<memory::MemoryObject>> object =
        backend_->Create(bytes, memory::Writers::kEveryone, half);
    if (!object.ok()) return object.status();
    if ((*object)->bytes().data() != half || (*object)->bytes().size() != bytes) {
      return absl::InternalError("the object lies elsewhere");
    }
    range_ = *std::move(range);
    object_ = *std::move(object);
    Use(object_->bytes().data(), bytes);
    const std::array<std::byte, 1> note{};
    const std::array<int, 1> fds{object_->descriptor()};
    return SendWithFds(peer_, note, fds, 0);
  }

  absl::Status Receive(uint64_t bytes) {
    absl::StatusOr<ReceivedMessage> message = ReceiveWithFds(peer_, 1, 0);
    if (!message.ok()) return message.status();
    if (message->fds.size() != 1) return absl::InternalError("a message without a descriptor");
    import_ = std::make_unique<Import>(context_);
    Use(nullptr, bytes);
    if (absl::Status status = import_->Map(message->fds[0].get(), bytes); !status.ok()) return status;
    Use(reinterpret_cast<std::byte*>(import_->words()), bytes);
    return absl::OkStatus();
  }

  absl::Status WriteAll(uint64_t seed) {
    absl::Status status = FromRuntime(Launch(WritePattern, kGrid, kThreads, 0, nullptr, words_, count_, seed));
    status.Update(FromRuntime(cudaDeviceSynchronize()));
    return status;
  }

  absl::StatusOr<uint64_t> Read(uint64_t seed) {
    unsigned long long found = 0;
    absl::Status status = FromRuntime(cudaMemset(different_, 0, sizeof(*different_)));
    status.Update(FromRuntime(Launch(CountDifferent, kGrid, kThreads, 0, nullptr, words_, count_, seed, different_)));
    status.Update(FromRuntime(cudaMemcpy(&found, different_, sizeof(found), cudaMemcpyDeviceToHost)));
    if (!status.ok()) return status;
    return found;
  }

  void Hammer() {
    cudaSetDevice(context_->ordinal());
    for (uint64_t seed = 1;; ++seed) {
      if (Launch(WritePattern, kGrid, kThreads, 0, nullptr, words_, count_, seed) != cudaSuccess) return;
      if (seed % 16 == 0 && cudaDeviceSynchronize() != cudaSuccess) return;
    }
  }

  void Use(std::byte* data, uint64_t bytes) {
    words_ = reinterpret_cast<uint64_t*>(data);
    count_ = bytes / sizeof(uint64_t);
  }

  const int peer_;
  std::unique_ptr<CudaBackend> backend_;
  std::shared_ptr<const DeviceContext> context_;
  unsigned long long* different_ = nullptr;  // ends with the process
  std::unique_ptr<memory::AddressRange> range_;
  std::unique_ptr<memory::MemoryObject> object_;  // lies in the range, so it ends before
  std::unique_ptr<Import> import_;
  uint64_t* words_ = nullptr;
  uint64_t count_ = 0;
};

}  // namespace

int RunSide(int control, int peer) {
  Side side(peer);
  for (;;) {
    absl::StatusOr<ReceivedMessage> message = ReceiveWithFds(control, sizeof(Command), 0);
    if (!message.ok() || message->bytes.size() != sizeof(Command)) return 0;
    Command command;
    std::copy_n(message->bytes.data(), sizeof(command), reinterpret_cast<std::byte*>(&command));
    const absl::StatusOr<uint64_t> done = side.Do(command);
    Answer answer{static_cast<int32_t>(done.status().code()), done.ok() ? *done : 0, {}};
    std::snprintf(answer.text, sizeof(answer.text), "%s", std::string(done.status().message()).c_str());
    if (!SendWithFds(control, std::as_bytes(std::span(&answer, 1)), {}, 0).ok()) return 1;
  }
}

}  // namespace kvsteward::gpu_test
