#include "client/worker/host_attention.h"
#include "tests/integration/attention_under_test.h"

namespace kvsteward::worker {

std::unique_ptr<CacheAttention> AttentionUnderTest(const ModelConfig& config) {
  return std::make_unique<HostAttention>(config);
}

}  // namespace kvsteward::worker
