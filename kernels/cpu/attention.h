// Stages 1-3 of one layer on the host: attention-like column scores of every resident. Two passes over the keys, in
// parallel over (kv head, chunk of keys); the cut depends on the shape alone, so the scores do not depend on threads.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "kernels/cpu/thread_pool.h"
#include "kvsteward/engine/paged.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine::cpu {

// Residents a task reads for `rows` query rows: a multiple of kTileKeys, and so many that the partial normalisers
// (12 bytes a row and chunk) stay below 4 bytes a resident.
int32_t ChunkKeys(int32_t rows);

// Fills `scores`: the residents of the layer's units, one unit after the other. INVALID_ARGUMENT on a number that is
// not finite. REQUIRES: the policy reads queries.
absl::Status ScoreAttention(const SequenceView& sequence, const Policy& policy, int64_t k, int32_t layer,
                            ThreadPool& threads, std::span<float> scores);

}  // namespace kvsteward::engine::cpu
