// The driver's stand-in, as the memory backend finds and calls it: what is right works, what is wrong is refused.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "base/cuda/device_context.h"
#include "base/cuda/driver.h"
#include "base/unique_fd.h"

namespace kvsteward::memory {
namespace {

constexpr uint64_t kGranule = uint64_t{2} << 20;

class DriverTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto loaded = LoadCudaDriver();
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    cuda_ = *loaded;
    const auto context = DeviceContext::Open("");
    ASSERT_TRUE(context.ok()) << context.status();
    context_ = *context;
    properties_.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties_.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
    properties_.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    access_ = {properties_.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    ASSERT_EQ(cuda_->cuMemAddressReserve(&range_, 4 * kGranule, 0, 0, 0), CUDA_SUCCESS);
    EXPECT_EQ(range_ % kGranule, 0u);
  }
  void TearDown() override { EXPECT_EQ(cuda_->cuMemAddressFree(range_, 4 * kGranule), CUDA_SUCCESS); }

  CUmemGenericAllocationHandle Create(uint64_t bytes) {
    CUmemGenericAllocationHandle handle = 0;
    EXPECT_EQ(cuda_->cuMemCreate(&handle, bytes, &properties_, 0), CUDA_SUCCESS);
    return handle;
  }
  uint64_t Free() {
    const auto free = context_->FreeBytes();
    EXPECT_TRUE(free.ok()) << free.status();
    return free.value_or(0);
  }

  const CudaDriver* cuda_ = nullptr;
  std::shared_ptr<const DeviceContext> context_;
  CUmemAllocationProp properties_{};
  CUmemAccessDesc access_{};
  CUdeviceptr range_ = 0;
};

TEST_F(DriverTest, MemoryLivesAsLongAsAMappingOrADescriptor) {
  const uint64_t before = Free();
  const CUmemGenericAllocationHandle handle = Create(2 * kGranule);
  ASSERT_EQ(cuda_->cuMemMap(range_, 2 * kGranule, 0, handle, 0), CUDA_SUCCESS);
  ASSERT_EQ(cuda_->cuMemSetAccess(range_, 2 * kGranule, &access_, 1), CUDA_SUCCESS);
  auto* const words = reinterpret_cast<uint64_t*>(range_);
  EXPECT_EQ(words[7], ~uint64_t{0});  // poison
  words[7] = 5;
  int fd = -1;
  ASSERT_EQ(cuda_->cuMemExportToShareableHandle(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
            CUDA_SUCCESS);
  UniqueFd exported(fd);
  ASSERT_EQ(cuda_->cuMemRelease(handle), CUDA_SUCCESS);
  ASSERT_EQ(cuda_->cuMemUnmap(range_, 2 * kGranule), CUDA_SUCCESS);
  EXPECT_EQ(Free(), before - 2 * kGranule);

  CUmemGenericAllocationHandle imported = 0;
  ASSERT_EQ(cuda_->cuMemImportFromShareableHandle(&imported, reinterpret_cast<void*>(static_cast<uintptr_t>(fd)),
                                                  CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
            CUDA_SUCCESS);
  EXPECT_EQ(cuda_->cuMemMap(range_, 3 * kGranule, 0, imported, 0), CUDA_ERROR_INVALID_VALUE);  // more than there is
  ASSERT_EQ(cuda_->cuMemMap(range_, 2 * kGranule, 0, imported, 0), CUDA_SUCCESS);
  ASSERT_EQ(cuda_->cuMemSetAccess(range_, 2 * kGranule, &access_, 1), CUDA_SUCCESS);
  EXPECT_EQ(words[7], 5u);
  ASSERT_EQ(cuda_->cuMemRelease(imported), CUDA_SUCCESS);
  exported.reset();
  EXPECT_EQ(Free(), before - 2 * kGranule);
  ASSERT_EQ(cuda_->cuMemUnmap(range_, 2 * kGranule), CUDA_SUCCESS);
  EXPECT_EQ(Free(), before);
}

TEST_F(DriverTest, WrongCallsAreRefused) {
  CUmemGenericAllocationHandle none = 0;
  EXPECT_EQ(cuda_->cuMemCreate(&none, kGranule + 1, &properties_, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuda_->cuMemCreate(&none, 0, &properties_, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuda_->cuMemCreate(&none, uint64_t{1} << 50, &properties_, 0), CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(cuda_->cuMemAddressReserve(&range_, kGranule / 2, 0, 0, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuda_->cuMemAddressFree(range_, kGranule), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuda_->cuMemRelease(12345), CUDA_ERROR_INVALID_VALUE);

  const CUmemGenericAllocationHandle handle = Create(kGranule);
  EXPECT_EQ(cuda_->cuMemMap(range_ + 4096, kGranule, 0, handle, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuda_->cuMemMap(range_ + 4 * kGranule, kGranule, 0, handle, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuda_->cuMemSetAccess(range_, kGranule, &access_, 1), CUDA_ERROR_INVALID_VALUE);  // nothing there
  ASSERT_EQ(cuda_->cuMemMap(range_ + kGranule, kGranule, 0, handle, 0), CUDA_SUCCESS);
  EXPECT_EQ(cuda_->cuMemMap(range_ + kGranule, kGranule, 0, handle, 0), CUDA_ERROR_INVALID_VALUE);  // twice
  EXPECT_EQ(cuda_->cuMemUnmap(range_, 2 * kGranule), CUDA_ERROR_INVALID_VALUE);                     // other bounds
  EXPECT_EQ(cuda_->cuMemAddressFree(range_, 4 * kGranule), CUDA_ERROR_INVALID_VALUE);               // mapped yet
  EXPECT_EQ(cuda_->cuMemUnmap(range_ + kGranule, kGranule), CUDA_SUCCESS);
  EXPECT_EQ(cuda_->cuMemRelease(handle), CUDA_SUCCESS);

  properties_.requestedHandleTypes = CU_MEM_HANDLE_TYPE_NONE;
  const CUmemGenericAllocationHandle secret = Create(kGranule);
  int fd = -1;
  EXPECT_EQ(cuda_->cuMemExportToShareableHandle(&fd, secret, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
            CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(cuda_->cuMemRelease(secret), CUDA_SUCCESS);
  const UniqueFd other(open("/dev/null", O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(cuda_->cuMemImportFromShareableHandle(&none, reinterpret_cast<void*>(static_cast<uintptr_t>(other.get())),
                                                  CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
            CUDA_ERROR_INVALID_VALUE);
  CUstream stream = nullptr;
  EXPECT_EQ(cuda_->cuStreamCreate(&stream, 0), CUDA_ERROR_INVALID_CONTEXT);  // none is current on this thread
}

}  // namespace
}  // namespace kvsteward::memory
