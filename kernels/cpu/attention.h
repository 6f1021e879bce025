// Stages 1 to 3 on the host for signals that are made from query rows: attention of the window's rows over a layer's
// residents, accumulated over rows and grouped over query heads. Stateless.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "absl/status/status.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/plan/protect.h"
#include "kvsteward/engine/paged.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine::cpu {

// Where a layer's signal goes: arrays over the layer's residents, units one after the other. The group's span is not
// looked at here: a kv head's query heads are grouped, the caller joins the kv heads.
struct AttentionOutput {
  std::span<float> scores = {};     // accumulated and grouped; with the group after the refinements it is not written
  std::span<float> attention = {};  // empty, or the mean over rows and query heads; not of powers or running rows
  std::span<float> cross = {};      // empty, or the part of `scores` from rows of another class than the token's,
  std::span<float> self = {};       // and from rows of the same class

  // With the group after the refinements: gets each kv head's scores before it, [group][length], in ascending order of
  // kv heads, on the caller's thread, when the head's `attention` has been written.
  std::function<absl::Status(int32_t kv_head, std::span<float> scores)> on_head = {};
};

// Scores one layer. The window's last policy.window rows are used (all of them if that is 0); of a running policy those
// from `sequence.observed` on, row i of m weighed by decay^(m - 1 - i). `candidates`: [kv_heads], for signals over
// candidates. Memory: O(kv_heads * tokens) floats at most, and a constant per thread.
absl::Status ScoreAttention(const SequenceView& sequence, const Policy& policy, int64_t k, int32_t layer,
                            std::span<const CandidateSet> candidates, ThreadPool& threads,
                            const AttentionOutput& output);

// Residents in a unit of parallel work, for `rows` query rows of a kv head: enough that the partial normalisers, 12
// bytes a row and chunk, stay below 4 bytes a resident.
int32_t ChunkKeys(int32_t rows);

}  // namespace kvsteward::engine::cpu
