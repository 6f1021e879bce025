// A device to test memory on, wherever the driver finds one. REQUIRES: no process is forked once it is open.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <string>

#include "base/cuda/device_memory.h"
#include "service/memory/cuda/cuda_backend.h"

namespace kvsteward::memory {

class CudaDevice {
 public:
  // Without a GPU it is the emulated one, of this size, and this process's (and its children's) alone.
  explicit CudaDevice(uint64_t emulated_bytes = uint64_t{256} << 20) {
    setenv("KVSTEWARD_EMULATED_DEVICE", ("memory-" + std::to_string(getpid())).c_str(), 0);
    setenv("KVSTEWARD_EMULATED_DEVICE_BYTES", std::to_string(emulated_bytes).c_str(), 1);
    context_ = *DeviceContext::Open("");
  }

  std::shared_ptr<const DeviceContext> context() const { return context_; }
  std::unique_ptr<CudaBackend> NewBackend() const { return *CudaBackend::Open(context_); }
  uint64_t Free() const { return *context_->FreeBytes(); }

  template <class T>
  T Read(const T* at) const {
    T value{};
    const absl::Status status =
        CopyFromDevice(*context_, reinterpret_cast<const std::byte*>(at), std::as_writable_bytes(std::span(&value, 1)));
    EXPECT_TRUE(status.ok()) << status;
    return value;
  }

 private:
  std::shared_ptr<const DeviceContext> context_;
};

// What a worker that lives on keeps of an extent.
class Import {
 public:
  Import(const CudaDevice& device, int descriptor) : context_(device.context()) {
    const DeviceContext::Scope scope(*context_);
    EXPECT_EQ(context_->driver().cuMemImportFromShareableHandle(
                  &handle_, reinterpret_cast<void*>(static_cast<uintptr_t>(descriptor)),
                  CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
              CUDA_SUCCESS);
  }
  ~Import() {
    const DeviceContext::Scope scope(*context_);
    EXPECT_EQ(context_->driver().cuMemRelease(handle_), CUDA_SUCCESS);
  }

 private:
  const std::shared_ptr<const DeviceContext> context_;
  CUmemGenericAllocationHandle handle_ = 0;
};

}  // namespace kvsteward::memory
