#include "tests/kernels/engine_contract.h"

namespace kvsteward::engine {

absl::StatusOr<Plan> PlanEviction(Engine& engine, PagedSequence& sequence, const Policy& policy, const Budget& budget,
                                  bool commit) {
  absl::StatusOr<EvictionPlanner> planner =
      EvictionPlanner::Start(engine, sequence.View(), policy, budget, /*keep_scores=*/true);
  if (!planner.ok()) return planner.status();
  while (!planner->finished()) {
    if (absl::Status status = planner->Step(); !status.ok()) return status;
  }
  if (commit) planner->CommitRunning();
  return planner->TakePlan();
}

Shape UniformShape(int32_t layers, int32_t kv_heads, int32_t length) {
  Shape shape;
  shape.layers = layers;
  shape.kv_heads = kv_heads;
  shape.lengths.assign(static_cast<size_t>(layers) * kv_heads, length);
  return shape;
}

}  // namespace kvsteward::engine
