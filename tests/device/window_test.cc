#include "service/device/window.h"

#include <gtest/gtest.h>

#include "kvsteward/shm.h"

namespace kvsteward::device {
namespace {

class WindowTest : public testing::Test {
 protected:
  WindowTest() { evict_.window_rows = 2; }

  absl::StatusOr<engine::WindowView> Resolve() { return ResolveWindow(evict_, lease_, statistics_, 100, &positions_); }
  void ExpectRefused(const std::string& field) {
    const absl::Status status = Resolve().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_NE(status.message().find(field.c_str()), absl::string_view::npos) << status;
  }

  // 2 * 4 * 8 elements a row.
  core::LeaseSpec lease_{.geometry = {.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 8},
                         .window_rows = 4,
                         .window_slots = 3,
                         .window_slot_bytes = 4 * 64 * 4};
  std::vector<std::byte> statistics_ = std::vector<std::byte>(KVS_WINDOWS_OFFSET + 3 * 1024);
  core::EvictSpec evict_;
  std::vector<int32_t> positions_;
};

TEST_F(WindowTest, ASlotIsFoundInTheStatisticsRegion) {
  evict_.window_slot = 2;
  const auto window = Resolve();
  ASSERT_TRUE(window.ok()) << window.status();
  EXPECT_EQ(window->queries, statistics_.data() + KVS_WINDOWS_OFFSET + 2048);
  EXPECT_EQ(window->rows, 2);
  EXPECT_EQ(std::vector<int32_t>(window->positions.begin(), window->positions.end()), (std::vector<int32_t>{98, 99}));
}

TEST_F(WindowTest, PositionsAreTakenAsGiven) {
  evict_.window_positions = {3, 50};
  const auto window = Resolve();
  ASSERT_TRUE(window.ok()) << window.status();
  EXPECT_EQ(window->positions.data(), evict_.window_positions.data());
}

TEST_F(WindowTest, NoRowsAreNoWindow) {
  evict_.window_rows = 0;
  const auto window = Resolve();
  ASSERT_TRUE(window.ok());
  EXPECT_EQ(window->queries, nullptr);
  EXPECT_EQ(window->rows, 0);
}

TEST_F(WindowTest, InlineQueriesHaveExactlyTheirSize) {
  evict_.window_inline = true;
  evict_.window_dtype = engine::DType::kBF16;
  evict_.inline_queries.resize(2 * 64 * 2);
  const auto window = Resolve();
  ASSERT_TRUE(window.ok()) << window.status();
  EXPECT_EQ(window->queries, evict_.inline_queries.data());
  EXPECT_EQ(window->dtype, engine::DType::kBF16);
  evict_.inline_queries.resize(2 * 64 * 2 - 1);
  ExpectRefused("window.inline_queries");
}

TEST_F(WindowTest, WhatLeavesTheSlotIsRefused) {
  evict_.window_slot = 3;
  ExpectRefused("window.slot");
  evict_.window_slot = 2;
  evict_.window_rows = 5;
  ExpectRefused("window.rows");
  evict_.window_rows = 4;
  EXPECT_TRUE(Resolve().ok());
  lease_.window_slot_bytes = 1023;  // Attach sized slots for another dtype
  ExpectRefused("window.rows");
  lease_.window_slot_bytes = 1024;
  statistics_.resize(KVS_WINDOWS_OFFSET + 3 * 1024 - 1);
  ExpectRefused("window.rows");
}

TEST_F(WindowTest, RowsThatWereNeverWrittenNeedPositions) {
  evict_.window_rows = 2;
  EXPECT_EQ(ResolveWindow(evict_, lease_, statistics_, 1, &positions_).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(ResolveWindow(evict_, lease_, statistics_, 2, &positions_).ok());
}

}  // namespace
}  // namespace kvsteward::device
