// The CUDA backend meets the engine's contract, over memory that host and device share.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <memory_resource>
#include <new>

#include "kvsteward/engine/cuda.h"
#include "tests/kernels/engine_contract.h"

namespace kvsteward::engine {
namespace {

using ::testing::Combine;
using ::testing::Range;
using ::testing::Values;
using ::testing::ValuesIn;

class ManagedMemory final : public std::pmr::memory_resource {
  void* do_allocate(size_t bytes, size_t) override {
    void* data = nullptr;
    if (cudaMallocManaged(&data, std::max<size_t>(bytes, 1)) != cudaSuccess) throw std::bad_alloc();
    return data;
  }
  void do_deallocate(void* data, size_t, size_t) override { cudaFree(data); }
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override { return this == &other; }
};

ManagedMemory managed_memory;

#ifdef KVSTEWARD_CUDA_EMULATED
constexpr uint32_t kStride = 20;
#else
constexpr uint32_t kStride = 1;
#endif

const EngineUnderTest kCuda = {"cuda", [](int threads) { return *NewCudaEngine({.host_threads = threads}); },
                               &managed_memory, kStride};

INSTANTIATE_TEST_SUITE_P(Cuda, EngineContract, Values(kCuda), [](const auto& test) { return test.param.name; });

INSTANTIATE_TEST_SUITE_P(Cuda, PresetContract, Combine(Values(kCuda), ValuesIn(PresetNames())), [](const auto& test) {
  std::string name = std::get<1>(test.param);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

INSTANTIATE_TEST_SUITE_P(Cuda, CompositionContract, Combine(Values(kCuda), Range(0, kCompositionShards)),
                         [](const auto& test) { return std::to_string(std::get<1>(test.param)); });

}  // namespace
}  // namespace kvsteward::engine
