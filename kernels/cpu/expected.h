// The signal `expected` (Expected Attention) on the host: the attention that queries of given mean and covariance are
// expected to pay. Stateless.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "kernels/cpu/thread_pool.h"
#include "kvsteward/engine/paged.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine::cpu {

// Scores of the `member`-th query head of every kv head, of the layer's residents, units one after the other: the
// softmax of k . m / sqrt(d) + k' C k / (2 d) over the residents that are no sinks (those score 0); what is below
// 2^-100 is 0. INVALID_ARGUMENT naming the first mean, covariance or key that is not finite; CANCELLED if the sequence
// was stopped. The same whatever the threads.
absl::Status ScoreExpected(const SequenceView& sequence, const Policy& policy, int32_t layer, int32_t member,
                           ThreadPool& threads, std::span<float> scores);

}  // namespace kvsteward::engine::cpu
