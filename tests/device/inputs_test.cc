#include "service/device/inputs.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <memory>
#include <string>

#include "kvsteward/shm.h"

namespace kvsteward::device {
namespace {

using Input = core::EvictSpec::Input;

constexpr int32_t kWritten = 100;
constexpr uint64_t kResidents = 320;  // of all units
constexpr uint64_t kMean = 2 * 4 * 8;
constexpr uint64_t kMost = std::numeric_limits<uint64_t>::max();

Input At(uint64_t offset) { return {.given = true, .is_inline = false, .bytes = {}, .offset = offset}; }
Input Inline(size_t bytes) {
  return {.given = true, .is_inline = true, .bytes = std::vector<std::byte>(bytes, std::byte{1}), .offset = 0};
}

class InputsTest : public testing::Test {
 protected:
  absl::StatusOr<engine::InputView> Resolve() {
    return ResolveInputs(evict_, lease_, {region_.get(), region_bytes_}, kWritten, kResidents, &classes_);
  }
  std::byte* area() { return region_.get() + lease_.inputs_offset(); }

  core::LeaseSpec lease_{.geometry = {.layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 8},
                         .window_rows = 4,
                         .window_slots = 1,
                         .window_slot_bytes = 4 * 64 * 4,
                         .input_bytes = 4096,
                         .ticket = {}};
  size_t region_bytes_ = KVS_WINDOWS_OFFSET + 1024 + 4096;
  std::unique_ptr<std::byte[], decltype(&std::free)> region_{static_cast<std::byte*>(std::aligned_alloc(4096, 12288)),
                                                             std::free};
  core::EvictSpec evict_;
  std::vector<uint8_t> classes_;
};

TEST_F(InputsTest, WhatIsNotGivenIsEmpty) {
  const auto view = Resolve();
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_TRUE(view->classes.empty() && view->scores.empty() && view->projected_norms.empty() &&
              view->query_mean.empty() && view->query_covariance.empty());
}

TEST_F(InputsTest, AnOffsetIsIntoTheInputsArea) {
  std::fill_n(region_.get(), region_bytes_, std::byte{7});
  evict_.classes = At(0);
  evict_.scores = At(128);
  evict_.projected_norms = At(192);
  evict_.query_mean = At(3840);
  evict_.query_covariance = At(2048);
  const auto view = Resolve();
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(view->classes.size(), static_cast<size_t>(kWritten));
  area()[3] = std::byte{9};  // a worker that goes on writing
  EXPECT_EQ(view->classes[3], 7);
  EXPECT_EQ(reinterpret_cast<const std::byte*>(view->scores.data()), area() + 128);
  EXPECT_EQ(view->scores.size(), kResidents);
  EXPECT_EQ(reinterpret_cast<const std::byte*>(view->projected_norms.data()), area() + 192);
  EXPECT_EQ(view->projected_norms.size(), kResidents);
  EXPECT_EQ(view->query_mean.size(), kMean);  // ends with the area
  EXPECT_EQ(reinterpret_cast<const std::byte*>(view->query_covariance.data()), area() + 2048);
  EXPECT_EQ(view->query_covariance.size(), kMean * 8);
}

TEST_F(InputsTest, InlineBytesAreTakenAsGiven) {
  evict_.classes = Inline(kWritten);
  evict_.scores = Inline(kResidents * 4);
  lease_.input_bytes = 0;
  const auto view = Resolve();
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(view->classes.size(), static_cast<size_t>(kWritten));
  EXPECT_EQ(reinterpret_cast<const std::byte*>(view->scores.data()), evict_.scores.bytes.data());
}

TEST_F(InputsTest, WhatDoesNotFitIsRefusedByName) {
  struct Case {
    std::string name;
    Input core::EvictSpec::*input;
    uint64_t bytes;  // that it needs
  };
  for (const Case& c : std::vector<Case>{{"classes", &core::EvictSpec::classes, kWritten},
                                         {"scores", &core::EvictSpec::scores, kResidents * 4},
                                         {"projected_norms", &core::EvictSpec::projected_norms, kResidents * 4},
                                         {"query_mean", &core::EvictSpec::query_mean, kMean * 4},
                                         {"query_covariance", &core::EvictSpec::query_covariance, kMean * 8 * 4}}) {
    SCOPED_TRACE(c.name);
    const auto refuse = [&](Input input, const std::string& field) {
      evict_ = {};
      evict_.*c.input = std::move(input);
      const absl::Status status = Resolve().status();
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
      EXPECT_EQ(std::string(status.message()).find("inputs." + c.name + "." + field), 0u) << status;
    };
    for (const size_t bytes : {size_t{0}, static_cast<size_t>(c.bytes - 1), static_cast<size_t>(c.bytes + 1)}) {
      refuse(Inline(bytes), "inline_data has " + std::to_string(bytes) + " bytes");
    }
    const uint64_t behind_last = (4096 - c.bytes) / 64 * 64 + 64;
    for (const uint64_t offset : {behind_last, uint64_t{4096}, uint64_t{1} << 63, kMost - 63}) {
      refuse(At(offset), "offset is " + std::to_string(offset));
    }
    for (const uint64_t offset : {uint64_t{4}, uint64_t{63}, kMost}) {
      refuse(At(offset), "offset is " + std::to_string(offset) + "; it must be a multiple of 64");
    }
    evict_ = {};
    evict_.*c.input = At(behind_last - 64);
    EXPECT_TRUE(Resolve().ok()) << Resolve().status();
    lease_.input_bytes = 0;
    refuse(At(0), "offset is 0");
    lease_.input_bytes = 4096;
    region_bytes_ -= 64;  // a region that is smaller than its spec says
    refuse(At(0), "offset is 0");
    region_bytes_ += 64;
  }
}

}  // namespace
}  // namespace kvsteward::device
