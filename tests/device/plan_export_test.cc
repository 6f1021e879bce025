// The sidecar writes plans, the worker reads them through kvsteward/shm.h.
#include "service/device/plan_export.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <vector>

#include "kvsteward/shm.h"
#include "service/core/core.h"

namespace kvsteward::device {
namespace {

// One layer of two heads with 70 and 3 residents, of which [1, 64, 69] and [0, 1] stay.
class PlanExportTest : public testing::Test {
 protected:
  static constexpr size_t kRegionBytes = 8192;

  PlanExportTest() {
    plan_.budget_tokens = 2;
    plan_.kept = {3, 2};
    plan_.layer_budgets = {5};
    plan_.mask = {uint64_t{1} << 1, (uint64_t{1} << 0) | (uint64_t{1} << 5), 3};
    plan_.mask_offsets = {0, 2, 3};
    std::fill_n(region_.get(), kRegionBytes, std::byte{0xee});
  }
  absl::Status Export(bool scores, core::PlanPlace place) {
    return ExportPlan(plan_, units_, 42, scores, place, {region_.get(), kRegionBytes});
  }
  const kvs_plan* plan() const { return reinterpret_cast<const kvs_plan*>(region_.get() + 64); }
  const kvs_unit_plan& unit(int index) const { return reinterpret_cast<const kvs_unit_plan*>(plan() + 1)[index]; }
  template <class Type>
  std::vector<Type> List(uint64_t offset, size_t count) const {
    const auto* list = reinterpret_cast<const Type*>(region_.get() + 64 + offset);
    return {list, list + count};
  }

  engine::Plan plan_;
  std::vector<engine::UnitView> units_ = {{.row = {}, .length = 70}, {.row = {}, .length = 3}};
  std::unique_ptr<std::byte[], decltype(&std::free)> region_{
      static_cast<std::byte*>(std::aligned_alloc(4096, kRegionBytes)), std::free};
  uint64_t most_bytes_ = core::PlanBytes({70, 3}, true);
};

TEST_F(PlanExportTest, MasksIndicesAndScoresAreWhereTheUnitPlanSays) {
  std::vector<float> scores(73, 0.25f);
  scores[1] = engine::kProtected;
  scores[72] = 9;
  plan_.scores.resize(1);
  plan_.scores[0].scores = scores;
  plan_.scores[0].offsets = {0, 70, 73};
  ASSERT_TRUE(Export(true, {.offset = 64, .bytes = most_bytes_}).ok());
  EXPECT_EQ(plan()->magic, KVS_SHM_MAGIC);
  EXPECT_EQ(plan()->units, 2u);
  EXPECT_EQ(plan()->sequence, 42u);
  EXPECT_EQ(plan()->budget_tokens, 2u);
  EXPECT_EQ(plan()->no_op, 0u);
  EXPECT_LE(plan()->bytes, most_bytes_);
  EXPECT_EQ(unit(0).residents, 70u);
  EXPECT_EQ(unit(0).kept, 3u);
  EXPECT_EQ(unit(1).residents, 3u);
  EXPECT_EQ(unit(1).kept, 2u);
  EXPECT_EQ(List<uint64_t>(unit(0).mask_offset, 2), (std::vector<uint64_t>{2, 33}));
  EXPECT_EQ(List<uint64_t>(unit(1).mask_offset, 1), (std::vector<uint64_t>{3}));
  EXPECT_EQ(List<uint32_t>(unit(0).indices_offset, 3), (std::vector<uint32_t>{1, 64, 69}));
  EXPECT_EQ(List<uint32_t>(unit(1).indices_offset, 2), (std::vector<uint32_t>{0, 1}));
  std::vector<float> first(70, 0.25f);
  first[1] = 0;  // protected
  EXPECT_EQ(List<float>(unit(0).scores_offset, 70), first);
  EXPECT_EQ(List<float>(unit(1).scores_offset, 3), (std::vector<float>{0.25f, 0.25f, 9}));
}

TEST_F(PlanExportTest, WithoutScoresThereAreNone) {
  ASSERT_TRUE(Export(false, {.offset = 64, .bytes = core::PlanBytes({70, 3}, false)}).ok());
  EXPECT_EQ(unit(0).scores_offset, 0u);
  EXPECT_EQ(List<uint32_t>(unit(0).indices_offset, 3), (std::vector<uint32_t>{1, 64, 69}));
}

TEST_F(PlanExportTest, ANoOpKeepsAllAndScoresZero) {
  plan_.no_op = true;
  plan_.kept = {70, 3};
  plan_.mask = {~uint64_t{0}, 63, 7};
  ASSERT_TRUE(Export(true, {.offset = 64, .bytes = most_bytes_}).ok());  // all is kept: the most there can be
  EXPECT_EQ(plan()->no_op, 1u);
  EXPECT_EQ(List<uint32_t>(unit(1).indices_offset, 3), (std::vector<uint32_t>{0, 1, 2}));
  EXPECT_EQ(List<float>(unit(0).scores_offset, 70), std::vector<float>(70));
}

TEST_F(PlanExportTest, WhatDoesNotFitIsRefusedAndNothingIsWritten) {
  const auto refused = [](const absl::Status& status) { return status.code() == absl::StatusCode::kResourceExhausted; };
  EXPECT_TRUE(refused(Export(true, {.offset = 64, .bytes = 300})));
  EXPECT_TRUE(refused(Export(true, {.offset = kRegionBytes - 64, .bytes = most_bytes_})));
  EXPECT_TRUE(refused(Export(true, {.offset = ~uint64_t{0} - 63, .bytes = most_bytes_})));
  EXPECT_TRUE(refused(Export(true, {.offset = 60, .bytes = most_bytes_})));
  EXPECT_TRUE(refused(ExportPlan(plan_, units_, 42, true, {.offset = 0, .bytes = most_bytes_}, {})));
  for (size_t i = 0; i < kRegionBytes; ++i) ASSERT_EQ(region_[i], std::byte{0xee});
}

}  // namespace
}  // namespace kvsteward::device
