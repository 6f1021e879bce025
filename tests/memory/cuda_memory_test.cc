// The pool and the daemon's memory on a device. Every test gives all of the device's memory back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <optional>
#include <vector>

#include "kvsteward/shm.h"
#include "service/memory/cuda/device_regions.h"
#include "service/memory/host_backend.h"
#include "service/memory/lease_pool.h"
#include "service/memory/memory.h"
#include "tests/memory/cuda_device.h"
#include "tests/memory/inbox.h"
#include "tests/memory/process.h"

namespace kvsteward::memory {
namespace {

using core::ObjectKind;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kGranule = 2 * kMiB;
// Blocks of 1 KiB: an extent of 16 MiB has 1 MiB of each side array, half a granule.
constexpr engine::Geometry kGeometry{.layers = 1, .query_heads = 1, .kv_heads = 1, .head_dim = 16};
constexpr uint64_t kBlockBytes = 1024;

std::shared_ptr<const core::LeaseSpec> Spec() {
  return std::make_shared<core::LeaseSpec>(core::LeaseSpec{.geometry = kGeometry});
}
core::Object Extent(uint32_t index, uint64_t bytes) {
  return {.id = index + 1, .kind = ObjectKind::kExtent, .index = index, .bytes = bytes, .private_bytes = 0};
}

class CudaMemoryTest : public testing::Test {
 protected:
  ~CudaMemoryTest() override { EXPECT_EQ(device_.Free(), before_); }

  CudaDevice device_;
  const uint64_t before_ = device_.Free();
  uint64_t Used() const { return before_ - device_.Free(); }
};

TEST_F(CudaMemoryTest, NeighboursShareGranulesOfSideArrays) {
  const auto backend = device_.NewBackend();
  LeasePool pool(1, Spec(), 64 * kMiB);
  ASSERT_TRUE(pool.AddExtent(*backend, Extent(0, 16 * kMiB)).ok());
  EXPECT_EQ(Used(), 16 * kMiB + 3 * kGranule);
  ASSERT_TRUE(pool.AddExtent(*backend, Extent(1, 16 * kMiB)).ok());
  EXPECT_EQ(Used(), 32 * kMiB + 3 * kGranule);
  ASSERT_TRUE(pool.AddExtent(*backend, Extent(2, 16 * kMiB)).ok());
  EXPECT_EQ(Used(), 48 * kMiB + 6 * kGranule);
  pool.Remove(ObjectKind::kExtent, 0);
  EXPECT_EQ(Used(), 32 * kMiB + 6 * kGranule);
  pool.Remove(ObjectKind::kExtent, 1);
  EXPECT_EQ(Used(), 16 * kMiB + 3 * kGranule);
  ASSERT_TRUE(pool.AddExtent(*backend, Extent(1, 16 * kMiB)).ok());
  EXPECT_EQ(Used(), 32 * kMiB + 6 * kGranule);
  EXPECT_EQ(pool.AddExtent(*backend, Extent(4, 16 * kMiB)).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Used(), 32 * kMiB + 6 * kGranule);
}

TEST_F(CudaMemoryTest, AnExtentMayHaveGranulesOfItsOwnBetweenSharedOnes) {
  const auto backend = device_.NewBackend();
  LeasePool pool(1, Spec(), 144 * kMiB);  // 48 MiB: 3 MiB of each side array
  ASSERT_TRUE(pool.AddExtent(*backend, Extent(1, 48 * kMiB)).ok());
  EXPECT_EQ(Used(), 48 * kMiB + 3 * 2 * kGranule);
  ASSERT_TRUE(pool.AddExtent(*backend, Extent(0, 48 * kMiB)).ok());
  EXPECT_EQ(Used(), 96 * kMiB + 3 * 3 * kGranule);
  const int32_t* const last = pool.View().positions + 2 * 48 * kMiB / kBlockBytes * 16 - 1;
  EXPECT_EQ(device_.Read(last), 0);
  pool.Remove(ObjectKind::kExtent, 1);
  EXPECT_EQ(Used(), 48 * kMiB + 3 * 2 * kGranule);
}

TEST_F(CudaMemoryTest, WhatDoesNotFitTheDeviceLeavesNothingBehind) {
  const auto backend = device_.NewBackend();
  const int descriptors = OpenDescriptors();
  const uint64_t most = device_.Free() / kGranule * kGranule;
  LeasePool pool(1, Spec(), 2 * most);
  const absl::Status status = pool.AddExtent(*backend, Extent(0, most));  // none is left for it beside its side arrays
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_EQ(Used(), 0u);
  EXPECT_EQ(OpenDescriptors(), descriptors);
}

TEST_F(CudaMemoryTest, PositionsAndBlocksAreCopied) {
  const auto backend = device_.NewBackend();
  LeasePool pool(1, Spec(), 16 * kMiB);
  EXPECT_TRUE(pool.StorePositions({}, {}).ok());  // before there is an extent
  ASSERT_TRUE(pool.AddExtent(*backend, Extent(0, 16 * kMiB)).ok());
  std::vector<core::Unit> units(2);
  units[0] = {.row = {{10, 1}, {3, 2}}, .kept = 40, .base = 100};
  units[1] = {.row = {{16383, 1}}, .kept = 5, .base = 100};
  std::vector<int32_t> positions(45);
  for (size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<int32_t>(2 * i + 1);
  ASSERT_TRUE(pool.StorePositions(units, positions).ok());
  const int32_t* const stored = pool.View().positions;
  EXPECT_EQ(device_.Read(stored + 10 * 16 + 15), 31);
  EXPECT_EQ(device_.Read(stored + 3 * 16), 33);
  EXPECT_EQ(device_.Read(stored + 3 * 16 + 23), 79);
  EXPECT_EQ(device_.Read(stored + 3 * 16 + 24), 0);
  EXPECT_EQ(device_.Read(stored + 16383 * 16 + 4), 89);

  const std::vector<std::byte> key(100, std::byte{7});
  ASSERT_TRUE(CopyToDevice(*device_.context(), {{{pool.View().keys(2), key}}}).ok());
  std::vector<std::byte> found(101);
  ASSERT_TRUE(pool.LoadBlocks(2 * kBlockBytes, found).ok());
  EXPECT_TRUE(std::equal(key.begin(), key.end(), found.begin()));
  EXPECT_EQ(found.back(), std::byte{0});
}

// Whether the driver has the address registered.
bool IsRegistered(const CudaDevice& device, void* data) {
  const DeviceContext::Scope scope(*device.context());
  CUdeviceptr address = 0;
  return device.context()->driver().cuMemHostGetDevicePointer(&address, data, 0) == CUDA_SUCCESS;
}

TEST_F(CudaMemoryTest, RegionsOfTheDaemonAreRegisteredAsLongAsTheyLive) {
  const auto regions = NewDeviceRegions(device_.context(), NewHostBackend());
  LeasePool pool(1, Spec(), 16 * kMiB);
  const auto add = [&](ObjectKind kind) {
    return pool.AddRegion(*regions, {.id = 1, .kind = kind, .index = 0, .bytes = 8192, .private_bytes = 0});
  };
  ASSERT_TRUE(add(ObjectKind::kTables).ok());
  ASSERT_TRUE(add(ObjectKind::kPlans).ok());
  ASSERT_TRUE(add(ObjectKind::kStatistics).ok());
  for (const ObjectKind kind : {ObjectKind::kTables, ObjectKind::kPlans}) {
    std::byte* const data = pool.Bytes(kind, 0).data();
    EXPECT_TRUE(IsRegistered(device_, data));
    pool.Remove(kind, 0);
    EXPECT_FALSE(IsRegistered(device_, data));
  }
  EXPECT_FALSE(IsRegistered(device_, pool.Bytes(ObjectKind::kStatistics, 0).data()));
}

// Regions that the driver refuses to register, since they are.
class RegisteredBefore : public Backend {
 public:
  explicit RegisteredBefore(const CudaDevice& device) : device_(device) {}
  absl::StatusOr<std::unique_ptr<MemoryObject>> Create(uint64_t bytes, Writers writers, std::byte* at) override {
    auto object = host_->Create(bytes, writers, at);
    const DeviceContext::Scope scope(*device_.context());
    EXPECT_EQ(device_.context()->driver().cuMemHostRegister((*object)->bytes().data(), bytes, 0), CUDA_SUCCESS);
    return object;
  }

 private:
  const CudaDevice& device_;
  const std::unique_ptr<Backend> host_ = NewHostBackend();
};

TEST_F(CudaMemoryTest, ARegionThatCannotBeRegisteredIsTheHostsAlone) {
  const auto regions = NewDeviceRegions(device_.context(), std::make_unique<RegisteredBefore>(device_));
  auto region = regions->Create(8192, Writers::kDaemon, nullptr);
  ASSERT_TRUE(region.ok()) << region.status();
  (*region)->bytes()[0] = std::byte{1};
  std::byte* const data = (*region)->bytes().data();
  region->reset();
  EXPECT_TRUE(IsRegistered(device_, data));  // as it was: it is not this region's to end
  const DeviceContext::Scope scope(*device_.context());
  EXPECT_EQ(device_.context()->driver().cuMemHostUnregister(data), CUDA_SUCCESS);
}

TEST_F(CudaMemoryTest, AnArenaThatTheDeviceCannotHoldIsRefusedWithBothNumbers) {
  const auto backend = device_.NewBackend();
  EXPECT_TRUE(backend->CheckArena(before_, 2 * kGranule).ok());
  const absl::Status large = backend->CheckArena(before_ + 1, kGranule);
  EXPECT_EQ(large.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(large.message()), HasSubstr("arena.bytes is " + std::to_string(before_ + 1)));
  EXPECT_THAT(std::string(large.message()), HasSubstr("has free, " + std::to_string(before_)));
  const absl::Status odd = backend->CheckArena(before_, kGranule + 65536);
  EXPECT_EQ(odd.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(odd.message()), HasSubstr("arena.extent_bytes is 2162688; on CUDA device " +
                                                    device_.context()->uuid() + " it must be a multiple of 2097152"));
}

// ---- Quarantine ----------------------------------------------------------------------------------------------------

class QuarantineTest : public CudaMemoryTest {
 protected:
  static constexpr uint64_t kExtentBytes = 16 * kMiB;
  static constexpr uint64_t kPrivateBytes = 3 * kMiB;

  QuarantineTest() { memory_.Start(inbox_.Putter()); }

  void Create(core::LeaseId lease, core::ObjectId id, ObjectKind kind, uint64_t bytes, uint64_t private_bytes = 0) {
    memory_.Create({.lease = lease,
                    .object = {.id = id, .kind = kind, .index = 0, .bytes = bytes, .private_bytes = private_bytes},
                    .shape = {},
                    .spec = Spec()});
    const auto ready = inbox_.WaitFor<core::ObjectReady>();
    EXPECT_EQ(ready.object, id);
    EXPECT_TRUE(ready.outcome.ok()) << ready.outcome.message;
  }
  core::ObjectId AwaitDestroyed() { return inbox_.WaitFor<core::ObjectDestroyed>().object; }

  EventInbox inbox_;
  Memory memory_{NewDeviceRegions(device_.context(), NewHostBackend()), device_.NewBackend(), before_};
};

TEST_F(QuarantineTest, WhatAWorkerKeepsIsAnsweredWhenAsMuchMemoryIsBack) {
  EXPECT_EQ(memory_.export_method(), "cuda-posix-fd");
  Create(1, 10, ObjectKind::kStatistics, 4096);
  Create(1, 11, ObjectKind::kExtent, kExtentBytes, kPrivateBytes);
  Create(2, 20, ObjectKind::kExtent, kExtentBytes, kPrivateBytes);
  std::optional<Import> kept(std::in_place, device_, memory_.Find(1)->Descriptor(ObjectKind::kExtent, 0));
  memory_.Destroy({.lease = 1, .object = 11});
  memory_.Destroy({.lease = 1, .object = 10});
  EXPECT_EQ(AwaitDestroyed(), 10u);  // behind the extent, which is not answered
  EXPECT_EQ(memory_.Find(1), nullptr);
  EXPECT_EQ(Used(), 2 * kExtentBytes + 3 * kGranule);
  // It is bytes that are quarantined: those that come back free the oldest, whose ever they are, and can be had again.
  memory_.Destroy({.lease = 2, .object = 20});
  EXPECT_EQ(AwaitDestroyed(), 11u);
  Create(3, 30, ObjectKind::kExtent, kExtentBytes, kPrivateBytes);
  memory_.Destroy({.lease = 3, .object = 30});
  EXPECT_EQ(AwaitDestroyed(), 20u);
  kept.reset();
  EXPECT_EQ(AwaitDestroyed(), 30u);
}

TEST_F(QuarantineTest, WhatIsBackIsAnsweredWhateverOthersKeep) {
  Create(1, 10, ObjectKind::kExtent, kExtentBytes, kPrivateBytes);
  Create(2, 20, ObjectKind::kExtent, 2 * kExtentBytes, 2 * kPrivateBytes);
  std::optional<Import> first(std::in_place, device_, memory_.Find(1)->Descriptor(ObjectKind::kExtent, 0));
  std::optional<Import> second(std::in_place, device_, memory_.Find(2)->Descriptor(ObjectKind::kExtent, 0));
  memory_.Destroy({.lease = 2, .object = 20});
  memory_.Destroy({.lease = 1, .object = 10});
  second.reset();  // as much as the second had: the first's bytes stay where they are
  EXPECT_EQ(AwaitDestroyed(), 20u);
  first.reset();
  EXPECT_EQ(AwaitDestroyed(), 10u);
}

}  // namespace
}  // namespace kvsteward::memory
