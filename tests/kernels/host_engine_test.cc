// The host backend meets the engine's contract.
#include <algorithm>

#include "tests/kernels/engine_contract.h"

namespace kvsteward::engine {
namespace {

using ::testing::Combine;
using ::testing::Range;
using ::testing::Values;
using ::testing::ValuesIn;

const EngineUnderTest kHost = {"host", NewHostEngine};

INSTANTIATE_TEST_SUITE_P(Host, EngineContract, Values(kHost), [](const auto& test) { return test.param.name; });

INSTANTIATE_TEST_SUITE_P(Host, PresetContract, Combine(Values(kHost), ValuesIn(PresetNames())), [](const auto& test) {
  std::string name = std::get<1>(test.param);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

INSTANTIATE_TEST_SUITE_P(Host, CompositionContract, Combine(Values(kHost), Range(0, kCompositionShards)),
                         [](const auto& test) { return std::to_string(std::get<1>(test.param)); });

}  // namespace
}  // namespace kvsteward::engine
