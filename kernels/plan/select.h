// Stages 7 and 8 of one layer: from scores to keep bits. The one definition that all backends share. Stateless;
// thread-safe.
#pragma once

#include "kernels/plan/parallel.h"
#include "kernels/plan/layer_engine.h"
#include "kvsteward/engine/paged.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {

// As LayerEngine::SelectLayer. Reads positions and runs of `sequence`, never keys or values. The result does not depend on
// `parallel`.
void SelectLayer(const SequenceView& sequence, const Policy& policy, const LayerScores& scores,
                 const ParallelFor& parallel, LayerChoice& choice);

}  // namespace kvsteward::engine
