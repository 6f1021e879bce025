// A recorded sequence through the engine in this very process. Stateless; thread-safe.
#pragma once

#include "absl/status/statusor.h"
#include "app/replay/replay_file.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::replay {

// Plans the eviction of `input` down to `budget` on `threads` (>= 1) threads. INVALID_ARGUMENT naming what is wrong
// with policy, budget or tensors.
absl::StatusOr<ReplayOutput> ReplayInProcess(const ReplayInput& input, const engine::Policy& policy,
                                             const engine::Budget& budget, int threads);

}  // namespace kvsteward::replay
