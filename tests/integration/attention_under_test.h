// What the decoder's tests attend with: each test program links one of the two definitions.
#pragma once

#include <memory>

#include "client/worker/cache_attention.h"
#include "client/worker/model.h"

namespace kvsteward::worker {

std::unique_ptr<CacheAttention> AttentionUnderTest(const ModelConfig& config);

}  // namespace kvsteward::worker
