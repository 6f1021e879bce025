#include "tests/kernels/engine_contract.h"

namespace kvsteward::engine {

absl::StatusOr<Plan> PlanEviction(Engine& engine, PagedSequence& sequence, const Policy& policy, const Budget& budget,
                                  bool commit) {
  const SequenceView view = sequence.View();
  absl::StatusOr<std::unique_ptr<Eviction>> eviction =
      engine.StartEviction(view, policy, budget, {.masks = true, .scores = true});
  if (!eviction.ok()) return eviction.status();
  while (!(*eviction)->finished()) {
    if (absl::Status status = (*eviction)->Step(); !status.ok()) return status;
  }
  if (commit) {
    if (absl::Status status = (*eviction)->CommitRunning(); !status.ok()) return status;
  }
  return (*eviction)->TakePlan();
}

Shape UniformShape(int32_t layers, int32_t kv_heads, int32_t length) {
  Shape shape;
  shape.layers = layers;
  shape.kv_heads = kv_heads;
  shape.lengths.assign(static_cast<size_t>(layers) * kv_heads, length);
  return shape;
}

}  // namespace kvsteward::engine
