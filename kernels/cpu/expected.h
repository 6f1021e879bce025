// The signal `expected` (Expected Attention) on the host: the attention that queries of given mean and covariance are
// expected to pay. Stateless.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "absl/status/status.h"
#include "kernels/cpu/thread_pool.h"
#include "kvsteward/engine/paged.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine::cpu {

// Scores one layer: of each query head the softmax of k . m / sqrt(d) + k' C k / (2 d) over the kv head's residents
// that are no sinks (those score 0); what is below 2^-100 is 0. `on_head` gets each kv head's scores, [group][length],
// in ascending order of kv heads, on the caller's thread. INVALID_ARGUMENT naming the first mean, covariance or key
// that is not finite; CANCELLED if the sequence was stopped. The same whatever the threads. Memory: as much as the kv
// heads' scores, at least one kv head's query heads', and a constant per thread.
absl::Status ScoreExpected(const SequenceView& sequence, const Policy& policy, int32_t layer, ThreadPool& threads,
                           const std::function<absl::Status(int32_t kv_head, std::span<float> scores)>& on_head);

}  // namespace kvsteward::engine::cpu
