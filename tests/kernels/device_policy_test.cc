// Which policies run on a device from their first stage to their last, as docs/architecture.md says.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "kvsteward/engine/cuda.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {
namespace {

using ::testing::UnorderedElementsAre;

TEST(DevicePolicyTest, ThesePresetsRunOnTheDevice) {
  std::vector<std::string> names;
  for (const std::string& name : PresetNames()) {
    if (RunsOnDevice(*Preset(name))) names.push_back(name);
  }
  EXPECT_THAT(names, UnorderedElementsAre("ahakv", "ahakv-ada", "snapkv", "ada-snapkv", "pyramidkv", "ada-pyramidkv",
                                          "defensivekv-lite"));
}

TEST(DevicePolicyTest, AStageWithoutAKernelKeepsAPolicyOnTheHost) {
  const std::vector<std::function<void(Policy&)>> edits = {
      [](Policy& p) { p.signal.kind = Signal::Kind::kKeyDifference; },
      [](Policy& p) { p.signal.over = Signal::Over::kCandidates; },
      [](Policy& p) { p.accumulate.kind = Accumulate::Kind::kRunning; },
      [](Policy& p) { p.accumulate.kind = Accumulate::Kind::kMeanVar; },
      [](Policy& p) { p.accumulate.row_pool = 3; },
      [](Policy& p) { p.group.span = Group::Span::kLayer; },
      [](Policy& p) { p.group.place = Group::Place::kAfterRefine; },
      [](Policy& p) { p.refine = {{.kind = Refinement::Kind::kMassRatio}}; },
      [](Policy& p) { p.refine = {{.kind = Refinement::Kind::kMaxPool, .pool = 1027}}; },
      [](Policy& p) { p.protect.classes = {3}; },
      [](Policy& p) { p.protect.mass_ppm = 100; },
      [](Policy& p) { p.layer.kind = LayerBudget::Kind::kEntropy; },
      [](Policy& p) { p.head.kind = HeadBudget::Kind::kSplit; },
      [](Policy& p) { p.select.kind = Select::Kind::kBlock; },
  };
  for (size_t i = 0; i < edits.size(); ++i) {
    Policy policy = *Preset("ahakv-ada");
    ASSERT_TRUE(RunsOnDevice(policy));
    edits[i](policy);
    EXPECT_FALSE(RunsOnDevice(policy)) << i;
  }
}

}  // namespace
}  // namespace kvsteward::engine
