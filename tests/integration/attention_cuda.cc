// Over the emulated runtime, which shares the host's addresses: a cache in the test's memory is one in the device's.
#include "client/worker/cuda/cuda_attention.h"
#include "tests/integration/attention_under_test.h"

namespace kvsteward::worker {

std::unique_ptr<CacheAttention> AttentionUnderTest(const ModelConfig& config) {
  return CudaAttention::Open(config, /*device=*/0).value();
}

}  // namespace kvsteward::worker
