// Stages 7 and 8 of one layer: which candidates stay. The one definition that all backends share, so that a plan
// depends on the emitted scores alone. Exact radix selection over the scores' bits: O(residents), no sorting, no
// floating point arithmetic. Stateless; thread-safe.
#pragma once

#include <cstdint>
#include <span>

#include "kvsteward/engine/engine.h"

namespace kvsteward::engine {

// As Engine::SelectLayer: exactly min(layer_total, residents) tokens stay, protected ones always. Ties: higher score,
// then lower head, then lower position.
void SelectLayer(const LayerScores& scores, const Policy& policy, int64_t layer_total, std::span<int32_t> kept,
                 std::span<const std::span<uint64_t>> masks);

}  // namespace kvsteward::engine
