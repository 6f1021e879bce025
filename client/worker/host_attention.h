// Attention over a cache in the host's memory. Owns scratch memory only. One thread at a time.
#pragma once

#include <vector>

#include "client/worker/cache_attention.h"
#include "client/worker/model.h"

namespace kvsteward::worker {

class HostAttention : public CacheAttention {
 public:
  explicit HostAttention(const ModelConfig& config) : config_(config) {}

  absl::Status Run(const KvCache& cache, const LayerPass& pass) override;

 private:
  absl::Status RunUnit(const KvCache& cache, const LayerPass& pass, uint32_t head);

  const ModelConfig config_;
  std::vector<float> scratch_;
  std::vector<const float*> blocks_;
};

}  // namespace kvsteward::worker
