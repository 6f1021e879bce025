// What a device can do to an engine: memory that runs out anywhere in an eviction is an ordinary refusal, nothing is
// lost and the next try succeeds; an error that stays is reported by its name.
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>

#include "kvsteward/engine/cuda.h"
#include "tests/emulation/faults.h"
#include "tests/kernels/engine_contract.h"

namespace kvsteward::engine {
namespace {

// Gives back what a test took away.
class Scarcity {
 public:
  explicit Scarcity(int64_t allocations) { emulation::FailAllocationsAfter(allocations); }
  ~Scarcity() { emulation::FailAllocationsAfter(-1); }
  Scarcity(const Scarcity&) = delete;
  Scarcity& operator=(const Scarcity&) = delete;
};

class OutOfMemoryTest : public ::testing::TestWithParam<const char*> {};

TEST_P(OutOfMemoryTest, IsRefusedWhereverItHappensAndChangesNothing) {
  Random random(3);
  Shape shape = UniformShape(2, 2, 90);
  PagedSequence sequence(MakeSequence(random, shape), Placement::kScattered, 1);
  const Policy policy = PresetNamed(GetParam());
  bool lost = false;
  auto engine = NewCudaEngine({.on_lost = [&](const std::string&) { lost = true; }});
  ASSERT_TRUE(engine.ok()) << engine.status();
  const std::string before = sequence.Snapshot();
  absl::StatusOr<Plan> plan;
  int refusals = 0;
  for (;; ++refusals) {
    ASSERT_LT(refusals, 100);
    {
      const Scarcity scarcity(refusals);
      plan = PlanEviction(**engine, sequence, policy, Tokens(40));
    }
    ASSERT_TRUE(sequence.Snapshot() == before);
    if (plan.ok()) break;
    ASSERT_EQ(plan.status().code(), absl::StatusCode::kResourceExhausted) << plan.status();
  }
  EXPECT_GE(refusals, 2);
  EXPECT_FALSE(lost);

  const absl::StatusOr<Plan> again = PlanEviction(**engine, sequence, policy, Tokens(40));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(plan->mask, again->mask);
  sequence.Compact(**engine, *again);
  sequence.ExpectMemoryEqualsPlain();
}

INSTANTIATE_TEST_SUITE_P(Policies, OutOfMemoryTest, ::testing::Values("ahakv-ada", "h2o"), [](const auto& test) {
  std::string name = test.param;
  return name.substr(0, name.find('-'));
});

TEST(DeviceTest, AnErrorThatStaysIsReportedByItsName) {
  Random random(4);
  PagedSequence sequence(MakeSequence(random, UniformShape(1, 2, 90)), Placement::kContiguous, 1);
  std::string lost;
  const auto engine = NewCudaEngine({.on_lost = [&](const std::string& error) { lost = error; }});
  ASSERT_TRUE(engine.ok()) << engine.status();
  emulation::LoseDevice(true);
  const absl::Status status = PlanEviction(**engine, sequence, PresetNamed("snapkv"), Tokens(40)).status();
  emulation::LoseDevice(false);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_EQ(lost, "cudaErrorIllegalAddress");
}

TEST(DeviceTest, OneThatIsNotThereIsRefusedByItsNumber) {
  const auto engine = NewCudaEngine({.ordinal = 7});
  EXPECT_EQ(engine.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(std::string(engine.status().message()).find("device 7"), std::string::npos) << engine.status();
}

}  // namespace
}  // namespace kvsteward::engine
