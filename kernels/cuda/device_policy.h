// How a policy's stages map to kernels. Stateless.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cuda/refine.h"
#include "kernels/cuda/score.h"
#include "kernels/cuda/select.h"
#include "kvsteward/engine/cuda.h"
#include "kvsteward/engine/paged.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine::cuda {

// Whether kernels make the scores of stages 1 to 3, within a kv head: attention of every visible resident, grouped
// before refinements.
bool ScoresOnDevice(const Policy& policy);

// Stages 1 to 3 into the arguments' signal and folds. REQUIRES: ScoresOnDevice.
void SetSignal(const Policy& policy, ScoreArgs* args);

// Stage 4. REQUIRES: RunsOnDevice.
std::vector<RefineStep> RefineSteps(const Policy& policy);

// Stage 7 as a kind of rule. REQUIRES: RunsOnDevice.
SelectRule::Kind RuleKind(const HeadBudget& head);

}  // namespace kvsteward::engine::cuda
