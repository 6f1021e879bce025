// What every engine must do, as tests over a factory. A backend joins with a file of a few lines: link
// kvsteward_engine_contract and instantiate EngineContract with its factory, PresetContract with its factory and the
// presets' names, and CompositionContract with its factory and shards.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <memory_resource>
#include <ostream>
#include <string>
#include <tuple>

#include "kvsteward/engine/engine.h"
#include "tests/kernels/paged_sequence.h"
#include "tests/kernels/random_cases.h"

namespace kvsteward::engine {

struct EngineUnderTest {
  std::string name;
  std::function<std::unique_ptr<Engine>(int threads)> make;
  std::pmr::memory_resource* memory = std::pmr::get_default_resource();  // readable by the engine and by the test
  uint32_t stride = 1;  // of so many random cases only one is run, where everything takes so much longer
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

// 1,000 random cases of one preset each.
class PresetContract : public ::testing::TestWithParam<std::tuple<EngineUnderTest, std::string>> {};

// Random compositions of stages, kCompositions of them dealt out over kCompositionShards tests.
class CompositionContract : public ::testing::TestWithParam<std::tuple<EngineUnderTest, int>> {};
inline constexpr int kCompositions = 2400;
inline constexpr int kCompositionShards = 8;

// Plans an eviction over all layers, keeping the scores, and stores running scores if `commit`.
absl::StatusOr<Plan> PlanEviction(Engine& engine, PagedSequence& sequence, const Policy& policy, const Budget& budget,
                                  bool commit = false);

inline Budget Tokens(int64_t tokens) { return {Budget::Kind::kTokens, tokens}; }
inline Policy PresetNamed(const std::string& name) { return *Preset(name); }
// A shape whose units are all of one length.
Shape UniformShape(int32_t layers, int32_t kv_heads, int32_t length);

}  // namespace kvsteward::engine
