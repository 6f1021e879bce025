// The host backend meets the engine's contract.
#include "tests/kernels/engine_contract.h"

namespace kvsteward::engine {
namespace {

INSTANTIATE_TEST_SUITE_P(Host, EngineContract, ::testing::Values(EngineUnderTest{"host", NewHostEngine}),
                         [](const auto& param) { return param.param.name; });

}  // namespace
}  // namespace kvsteward::engine
