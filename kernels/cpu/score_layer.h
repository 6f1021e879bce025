// Stages 1 to 5 of one layer on the host, put together. Stateless.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/cpu/thread_pool.h"
#include "kvsteward/engine/engine.h"
#include "kvsteward/engine/paged.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine::cpu {

// As Engine::ScoreLayer. Memory: `out`, some 12 bytes per (kv head, token) at most, and a constant per thread.
absl::Status ScoreLayer(const SequenceView& sequence, const Policy& policy, int64_t k, int32_t layer,
                        ThreadPool& threads, LayerScores* out);

// As Engine::AccumulateLayer.
absl::Status AccumulateLayer(const SequenceView& sequence, const Policy& policy, int64_t k, int32_t layer,
                             ThreadPool& threads, std::vector<float>* running);

}  // namespace kvsteward::engine::cpu
