// Stages 1 to 5 of one layer on the host, put together. Stateless.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/plan/protect.h"
#include "kvsteward/engine/engine.h"
#include "kvsteward/engine/paged.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine::cpu {

// Makes the attention of stages 1 to 3, as ScoreAttention of the same sequence, policy, budget and layer.
using Attend = std::function<absl::Status(std::span<const CandidateSet> candidates, const AttentionOutput& output)>;

// As LayerEngine::ScoreLayer; with `attend` in place of ScoreAttention if it is given. Memory: `out`, some 12 bytes per
// (kv head, token) at most, and a constant per thread.
absl::Status ScoreLayer(const SequenceView& sequence, const Policy& policy, int64_t k, int32_t layer,
                        ThreadPool& threads, LayerScores* out, const Attend& attend = {});

// As LayerEngine::AccumulateLayer, likewise.
absl::Status AccumulateLayer(const SequenceView& sequence, const Policy& policy, int64_t k, int32_t layer,
                             ThreadPool& threads, std::vector<float>* running, const Attend& attend = {});

}  // namespace kvsteward::engine::cpu
