// The sidecar writes through table_writer.h, the worker reads through kvsteward/shm.h.
#include "service/memory/table_writer.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>

#include "kvsteward/shm.h"

namespace kvsteward::memory {
namespace {

class TableWriterTest : public testing::Test {
 protected:
  static constexpr size_t kChunkBytes = 16384;
  // Not zeroes: places are used again.
  TableWriterTest() { std::fill_n(chunk_.get(), kChunkBytes, std::byte{0xee}); }

  std::span<std::byte> chunk() const { return {chunk_.get(), kChunkBytes}; }
  const kvs_sequence_table* table() const {
    return reinterpret_cast<const kvs_sequence_table*>(chunk_.get() + place_.offset);
  }
  // Blocks of the unit's valid row, as a worker reads them.
  std::vector<uint32_t> Row(uint32_t unit) const {
    const kvs_row* const row = kvs_current_row(table(), unit);
    return {row->block, row->block + row->blocks};
  }
  uint64_t Word(uint32_t unit) const { return *kvs_unit_word(table(), unit); }

  std::unique_ptr<std::byte[], decltype(&std::free)> chunk_{
      static_cast<std::byte*>(std::aligned_alloc(4096, kChunkBytes)), std::free};
  core::TablePlace place_{.chunk = 0, .offset = 128, .row_capacity = 8};
};

TEST_F(TableWriterTest, AFreshTableHasItsRows) {
  const std::vector<core::Unit> units = {{.row = {}, .kept = 0, .base = 0, .normed = 0},
                                         {.row = {{5, 2}, {9, 1}}, .kept = 40, .base = 90, .normed = 0}};
  ASSERT_TRUE(InitTable(chunk(), place_, units).ok());
  EXPECT_EQ(table()->magic, KVS_SHM_MAGIC);
  EXPECT_EQ(table()->units, 2u);
  EXPECT_EQ(table()->row_capacity, 8u);
  EXPECT_EQ(Row(0), std::vector<uint32_t>());
  EXPECT_EQ(kvs_current_row(table(), 0)->row_len, 0u);
  EXPECT_EQ(Row(1), (std::vector<uint32_t>{5, 6, 9}));
  EXPECT_EQ(kvs_current_row(table(), 1)->row_len, 40u);
  EXPECT_EQ(kvs_current_row(table(), 1)->base_tokens, 90u);
}

TEST_F(TableWriterTest, BlocksAreAppendedAndCutInPlace) {
  ASSERT_TRUE(InitTable(chunk(), place_, std::vector<core::Unit>(2)).ok());
  const kvs_row* const row = kvs_current_row(table(), 1);
  ASSERT_TRUE(AppendRows(chunk(), place_, {{.unit = 1, .from = 0, .blocks = {{3, 2}}}}).ok());
  ASSERT_TRUE(AppendRows(chunk(), place_, {{.unit = 1, .from = 2, .blocks = {{7, 1}, {1, 2}}}}).ok());
  EXPECT_EQ(kvs_current_row(table(), 1), row);
  EXPECT_EQ(Row(1), (std::vector<uint32_t>{3, 4, 7, 1, 2}));
  EXPECT_EQ(Row(0), std::vector<uint32_t>());
  ASSERT_TRUE(TrimRows(chunk(), place_, {{.unit = 1, .blocks = 1}}).ok());
  EXPECT_EQ(Row(1), (std::vector<uint32_t>{3}));
  ASSERT_TRUE(AppendRows(chunk(), place_, {{.unit = 1, .from = 1, .blocks = {{20, 1}}}}).ok());
  EXPECT_EQ(Row(1), (std::vector<uint32_t>{3, 20}));
}

TEST_F(TableWriterTest, APublishedRowFlipsTheSlotAndKeepsTheOldOneWhole) {
  ASSERT_TRUE(InitTable(chunk(), place_, {{.row = {{5, 3}}, .kept = 40, .base = 40, .normed = 0}, core::Unit()}).ok());
  const kvs_row* const old = kvs_current_row(table(), 0);
  ASSERT_TRUE(PublishRow(chunk(), place_, 0, 17, 44, core::Row{{50, 2}}).ok());
  EXPECT_EQ(Word(0), 3u);  // version 1, slot 1
  EXPECT_EQ(Row(0), (std::vector<uint32_t>{50, 51}));
  EXPECT_EQ(kvs_current_row(table(), 0)->row_len, 17u);
  EXPECT_EQ(kvs_current_row(table(), 0)->base_tokens, 44u);
  EXPECT_EQ(old->row_len, 40u);
  EXPECT_EQ(old->blocks, 3u);
  EXPECT_EQ(Word(1), 0u);
  // Appends go to the row that is valid now.
  ASSERT_TRUE(AppendRows(chunk(), place_, {{.unit = 0, .from = 2, .blocks = {{60, 1}}}}).ok());
  EXPECT_EQ(Row(0), (std::vector<uint32_t>{50, 51, 60}));
  ASSERT_TRUE(PublishRow(chunk(), place_, 0, 1, 50, core::Row{{8, 1}}).ok());
  EXPECT_EQ(Word(0), 4u);  // version 2, slot 0
  EXPECT_EQ(kvs_current_row(table(), 0), old);
  EXPECT_EQ(Row(0), (std::vector<uint32_t>{8}));
}

TEST_F(TableWriterTest, WhatDoesNotFitIsRefusedAndNothingIsWritten) {
  const std::vector<core::Unit> units(2);
  const auto refused = [](const absl::Status& status) { return status.code() == absl::StatusCode::kOutOfRange; };
  const auto init = [&](uint64_t offset, uint32_t capacity) {
    return InitTable(chunk(), {.chunk = 0, .offset = offset, .row_capacity = capacity}, units);
  };
  EXPECT_TRUE(refused(init(0, 8)));                    // over the region's header
  EXPECT_TRUE(refused(init(100, 8)));                  // not aligned
  EXPECT_TRUE(refused(init(kChunkBytes, 8)));          // behind the end
  EXPECT_TRUE(refused(init(~uint64_t{0} - 63, 8)));    // overflow
  EXPECT_TRUE(refused(init(128, 4096)));               // too large
  EXPECT_TRUE(refused(init(128, ~uint32_t{0})));       // much too large
  EXPECT_TRUE(refused(InitTable({}, place_, units)));  // no such chunk
  EXPECT_TRUE(refused(AppendRows(chunk(), place_, {{.unit = 0, .from = 0, .blocks = {{1, 1}}}})));  // never set up
  EXPECT_TRUE(refused(InitTable(chunk(), place_, {{.row = {{0, 9}}, .kept = 0, .base = 0, .normed = 0}})));
  EXPECT_EQ(chunk()[place_.offset], std::byte{0xee});

  ASSERT_TRUE(InitTable(chunk(), place_, units).ok());
  EXPECT_TRUE(refused(AppendRows(chunk(), place_, {{.unit = 2, .from = 0, .blocks = {{1, 1}}}})));
  EXPECT_TRUE(refused(AppendRows(
      chunk(), place_, {{.unit = 0, .from = 0, .blocks = {{1, 8}}}, {.unit = 1, .from = 8, .blocks = {{1, 1}}}})));
  EXPECT_EQ(Row(0), std::vector<uint32_t>());
  EXPECT_TRUE(refused(AppendRows(chunk(), place_, {{.unit = 0, .from = 1, .blocks = {{1, ~uint32_t{0}}}}})));
  EXPECT_TRUE(refused(PublishRow(chunk(), place_, 2, 1, 1, core::Row{{1, 1}})));
  EXPECT_TRUE(refused(PublishRow(chunk(), place_, 0, 1, 1, core::Row{{1, 9}})));
  EXPECT_EQ(Word(0), 0u);
}

}  // namespace
}  // namespace kvsteward::memory
