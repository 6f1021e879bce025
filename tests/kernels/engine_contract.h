// What every engine must do, as tests over a factory. A backend joins with a file of a few lines: link
// engine_contract.cc and instantiate EngineContract with its factory.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <memory_resource>
#include <ostream>
#include <string>

#include "kvsteward/engine/engine.h"
#include "tests/kernels/paged_sequence.h"

namespace kvsteward::engine {

struct EngineUnderTest {
  std::string name;
  std::function<std::unique_ptr<Engine>(int threads)> make;
  std::pmr::memory_resource* memory = std::pmr::get_default_resource();  // readable by the engine and by the test
};

inline void PrintTo(const EngineUnderTest& engine, std::ostream* out) { *out << engine.name; }

class EngineContract : public ::testing::TestWithParam<EngineUnderTest> {
 protected:
  void SetUp() override { engine_ = GetParam().make(2); }

  PagedSequence Page(PlainSequence plain, Placement placement = Placement::kScattered, uint32_t seed = 1) const {
    return PagedSequence(std::move(plain), placement, seed, GetParam().memory);
  }

  std::unique_ptr<Engine> engine_;
};

// Plans an eviction over all layers, keeping the scores.
absl::StatusOr<Plan> PlanEviction(Engine& engine, PagedSequence& sequence, const Policy& policy, const Budget& budget);

// Fails the test unless `plan` is right: (a) its scores are within epsilon of the float64 reference, (b) the
// reference's stages 6-8 make the same plan of its scores, bit for bit; and its totals are exact.
void ExpectPlanIsRight(PagedSequence& sequence, const Policy& policy, const Plan& plan);

}  // namespace kvsteward::engine
