#include "service/memory/lease_pool.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <cstring>

#include "kvsteward/shm.h"
#include "service/memory/host_backend.h"
#include "tests/memory/process.h"

namespace kvsteward::memory {
namespace {

using core::ObjectKind;

constexpr engine::Geometry kGeometry{.layers = 1, .query_heads = 2, .kv_heads = 2, .head_dim = 16};
constexpr uint64_t kBlockBytes = 2 * 16 * 16 * 2;
constexpr uint64_t kExtentBytes = 64 * kBlockBytes;  // 64 KiB
constexpr uint32_t kBlocksPerExtent = 64;

core::Object Extent(uint32_t index, uint64_t bytes = kExtentBytes) {
  return {.id = index + 1, .kind = ObjectKind::kExtent, .index = index, .bytes = bytes, .private_bytes = 128 * 64};
}
core::Object Region(ObjectKind kind, uint32_t index, uint64_t bytes) {
  return {.id = 100 + index, .kind = kind, .index = index, .bytes = bytes, .private_bytes = 0};
}

class LeasePoolTest : public testing::Test {
 protected:
  std::unique_ptr<ExtentBackend> backend_ = NewHostBackend();
  LeasePool pool_{77, std::make_shared<core::LeaseSpec>(core::LeaseSpec{.geometry = kGeometry}), 4 * kExtentBytes};
};

TEST_F(LeasePoolTest, BlocksOfAllExtentsLieInOneRange) {
  ASSERT_TRUE(pool_.AddExtent(*backend_, Extent(0)).ok());
  const engine::PoolView first = pool_.View();
  EXPECT_EQ(first.block_bytes, kBlockBytes);
  ASSERT_TRUE(pool_.AddExtent(*backend_, Extent(2)).ok());
  ASSERT_TRUE(pool_.AddExtent(*backend_, Extent(1)).ok());
  const engine::PoolView view = pool_.View();
  EXPECT_EQ(view.data, first.data);
  EXPECT_EQ(view.positions, first.positions);
  EXPECT_EQ(view.norms, first.norms);
  EXPECT_EQ(view.running, first.running);
  for (uint32_t block = 0; block < 3 * kBlocksPerExtent; ++block) {
    std::memset(view.keys(block), static_cast<int>(block), kBlockBytes);
    for (uint32_t slot = 0; slot < 16; ++slot) {
      EXPECT_EQ(view.positions[block * 16 + slot], 0);
      view.positions[block * 16 + slot] = static_cast<int32_t>(block);
      view.norms[block * 16 + slot] = 1.0f;
      EXPECT_EQ(view.running[block * 16 + slot], 0.0f);
      view.running[block * 16 + slot] = 2.0f;
    }
  }
  for (uint32_t i = 0; i < 3; ++i) {
    const std::span<std::byte> bytes = pool_.Bytes(ObjectKind::kExtent, i);
    EXPECT_EQ(bytes.data(), view.data + i * kExtentBytes);
    EXPECT_EQ(bytes.size(), kExtentBytes);
    EXPECT_EQ(bytes.back(), static_cast<std::byte>((i + 1) * kBlocksPerExtent - 1));
    // The worker's descriptor shows the same bytes.
    std::byte last{};
    EXPECT_EQ(pread(pool_.Descriptor(ObjectKind::kExtent, i), &last, 1, kExtentBytes - 1), 1);
    EXPECT_EQ(last, bytes.back());
  }
}

TEST_F(LeasePoolTest, RunningScoresTakeMemoryOnlyWhereTheyAreWritten) {
  for (uint32_t i = 0; i < 2; ++i) ASSERT_TRUE(pool_.AddExtent(*backend_, Extent(i)).ok());
  const engine::PoolView view = pool_.View();
  constexpr size_t kTokens = 2 * kBlocksPerExtent * 16;  // a page each
  EXPECT_EQ(PagesPresent(view.norms, kTokens * sizeof(float)), 2u);
  EXPECT_EQ(PagesPresent(view.running, kTokens * sizeof(float)), 0u);
  view.running[kTokens - 1] = 1.0f;
  EXPECT_EQ(PagesPresent(view.running, kTokens * sizeof(float)), 1u);
  pool_.Remove(ObjectKind::kExtent, 1);
  EXPECT_EQ(PagesPresent(view.running, kTokens * sizeof(float)), 0u);
}

TEST_F(LeasePoolTest, WhatDoesNotFitTheRangeIsRefused) {
  ASSERT_TRUE(pool_.AddExtent(*backend_, Extent(0)).ok());
  const int before = OpenDescriptors();
  EXPECT_EQ(pool_.AddExtent(*backend_, Extent(4)).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(pool_.AddExtent(*backend_, Extent(1, 2 * kExtentBytes)).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(OpenDescriptors(), before);
  EXPECT_TRUE(pool_.AddExtent(*backend_, Extent(3)).ok());
}

TEST_F(LeasePoolTest, RegionsBeginWithTheirHeaderAndOnlyStatisticsCanBeWrittenByAWorker) {
  ASSERT_TRUE(pool_.AddRegion(*backend_, Region(ObjectKind::kTables, 3, 8192)).ok());
  ASSERT_TRUE(pool_.AddRegion(*backend_, Region(ObjectKind::kStatistics, 0, 4096)).ok());
  ASSERT_TRUE(pool_.AddRegion(*backend_, Region(ObjectKind::kPlans, 0, 4096)).ok());
  kvs_region_header header{};
  std::memcpy(&header, pool_.Bytes(ObjectKind::kTables, 3).data(), sizeof(header));
  EXPECT_EQ(header.magic, KVS_SHM_MAGIC);
  EXPECT_EQ(header.version, KVS_SHM_VERSION);
  EXPECT_EQ(header.kind, uint32_t{KVS_TABLES});
  EXPECT_EQ(header.index, 3u);
  EXPECT_EQ(header.bytes, 8192u);
  EXPECT_EQ(header.lease, 77u);
  const auto worker_can_write = [&](ObjectKind kind, uint32_t index) {
    return pwrite(pool_.Descriptor(kind, index), "x", 1, 100) == 1;
  };
  EXPECT_FALSE(worker_can_write(ObjectKind::kTables, 3));
  EXPECT_TRUE(worker_can_write(ObjectKind::kStatistics, 0));
  EXPECT_FALSE(worker_can_write(ObjectKind::kPlans, 0));
  EXPECT_EQ(pool_.Descriptor(ObjectKind::kTables, 0), -1);
  EXPECT_TRUE(pool_.Bytes(ObjectKind::kTables, 0).empty());
}

TEST_F(LeasePoolTest, RemoveGivesBackAndLeavesTheOthersAlone) {
  EXPECT_TRUE(pool_.empty());
  const int before = OpenDescriptors();
  for (uint32_t i = 0; i < 3; ++i) ASSERT_TRUE(pool_.AddExtent(*backend_, Extent(i)).ok());
  const engine::PoolView view = pool_.View();
  for (uint32_t i = 0; i < 3 * kBlocksPerExtent * 16; ++i) view.positions[i] = 5;
  *view.keys(0) = *view.keys(kBlocksPerExtent) = *view.keys(2 * kBlocksPerExtent) = std::byte{5};
  pool_.Remove(ObjectKind::kExtent, 1);
  EXPECT_EQ(OpenDescriptors(), before + 2);
  EXPECT_TRUE(IsMapped(view.keys(kBlocksPerExtent)));  // still our range: no other mapping can come to lie there
  EXPECT_EQ(*view.keys(0), std::byte{5});
  EXPECT_EQ(view.positions[kBlocksPerExtent * 16 - 1], 5);
  EXPECT_EQ(view.positions[2 * kBlocksPerExtent * 16], 5);
  ASSERT_TRUE(pool_.AddExtent(*backend_, Extent(1)).ok());
  EXPECT_EQ(*view.keys(kBlocksPerExtent), std::byte{0});
  EXPECT_EQ(view.positions[kBlocksPerExtent * 16], 0);
  for (uint32_t i = 0; i < 3; ++i) pool_.Remove(ObjectKind::kExtent, i);
  EXPECT_TRUE(pool_.empty());
  EXPECT_EQ(OpenDescriptors(), before);
}

TEST_F(LeasePoolTest, PositionsOfImportedResidentsFollowTheRows) {
  ASSERT_TRUE(pool_.AddExtent(*backend_, Extent(0)).ok());
  std::vector<core::Unit> units(3);
  units[0] = {.row = {{10, 1}, {3, 2}}, .kept = 40, .base = 100};
  units[1] = {.row = {}, .kept = 0, .base = 100};
  units[2] = {.row = {{20, 4}}, .kept = 5, .base = 100};
  std::vector<int32_t> positions(45);
  for (int32_t i = 0; i < 45; ++i) positions[static_cast<size_t>(i)] = 2 * i + 1;
  ASSERT_TRUE(pool_.StorePositions(units, positions).ok());
  const int32_t* const stored = pool_.View().positions;
  for (int32_t j = 0; j < 16; ++j) EXPECT_EQ(stored[10 * 16 + j], 2 * j + 1);
  for (int32_t j = 16; j < 40; ++j) EXPECT_EQ(stored[3 * 16 + j - 16], 2 * j + 1);
  EXPECT_EQ(stored[3 * 16 + 24], 0);
  for (int32_t j = 0; j < 5; ++j) EXPECT_EQ(stored[20 * 16 + j], 2 * (40 + j) + 1);
  EXPECT_EQ(stored[20 * 16 + 5], 0);
}

}  // namespace
}  // namespace kvsteward::memory
