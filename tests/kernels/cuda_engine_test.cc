// The CUDA backend meets the engine's contract. Tokens lie in managed memory, which the engine reads as it would its
// own and the tests as theirs. They are small: no more is asked for than any device has.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <new>

#include "kvsteward/engine/cuda.h"
#include "tests/kernels/engine_contract.h"

namespace kvsteward::engine {
namespace {

using ::testing::Combine;
using ::testing::Range;
using ::testing::Values;
using ::testing::ValuesIn;

class ManagedMemory : public std::pmr::memory_resource {
 private:
  void* do_allocate(size_t bytes, size_t /*alignment: of a page at least*/) override {
    void* data = nullptr;
    if (cudaMallocManaged(&data, std::max<size_t>(bytes, 1)) != cudaSuccess) throw std::bad_alloc();
    return data;
  }
  void do_deallocate(void* data, size_t, size_t) override { EXPECT_EQ(cudaFree(data), cudaSuccess); }
  bool do_is_equal(const memory_resource& other) const noexcept override { return this == &other; }
};

// In large pieces, kept for the next sequence. Never destroyed: the runtime may be gone by then.
std::pmr::memory_resource* Managed() {
  static auto* pool = new std::pmr::synchronized_pool_resource(new ManagedMemory);
  return pool;
}

std::unique_ptr<Engine> MakeEngine(int threads) {
  auto engine = NewCudaEngine({.host_threads = threads});
  if (!engine.ok()) {
    ADD_FAILURE() << engine.status();
    return nullptr;
  }
  return *std::move(engine);
}

#if defined(KVSTEWARD_CUDA_EMULATED) && defined(__SANITIZE_ADDRESS__)
constexpr uint32_t kStride = 4;  // of the one in ten that the contract runs under sanitizers
#elif defined(KVSTEWARD_CUDA_EMULATED)
constexpr uint32_t kStride = 20;
#else
constexpr uint32_t kStride = 1;
#endif

const EngineUnderTest kCuda = {"cuda", MakeEngine, Managed(), kStride};

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
