// The signal `key_difference` (KeyDiff): how far each key points away from the mean direction of its unit's keys.
// Stateless.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "kernels/cpu/thread_pool.h"
#include "kvsteward/engine/paged.h"

namespace kvsteward::engine::cpu {

// Writes max(0, 1 - cos) of the layer's residents, units one after the other, in float64 until then. INVALID_ARGUMENT
// naming the first key that is not finite; CANCELLED if the sequence was stopped. The same whatever the threads.
absl::Status ScoreKeyDifference(const SequenceView& sequence, int32_t layer, ThreadPool& threads,
                                std::span<float> scores);

}  // namespace kvsteward::engine::cpu
