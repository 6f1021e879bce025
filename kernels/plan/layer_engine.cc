#include "kernels/plan/layer_engine.h"

#include <utility>

#include "kernels/plan/planner.h"

namespace kvsteward::engine {

absl::StatusOr<std::unique_ptr<Eviction>> LayerEngine::StartEviction(const SequenceView& sequence, const Policy& policy,
                                                                     const Budget& budget, PlanWants wants) {
  absl::StatusOr<EvictionPlanner> planner = EvictionPlanner::Start(*this, sequence, policy, budget, wants.scores);
  if (!planner.ok()) return planner.status();
  return std::make_unique<EvictionPlanner>(*std::move(planner));
}

absl::StatusOr<std::unique_ptr<Observation>> LayerEngine::StartObservation(const SequenceView& sequence,
                                                                           const Policy& policy, const Budget& budget) {
  absl::StatusOr<Observer> observer = Observer::Start(*this, sequence, policy, budget);
  if (!observer.ok()) return observer.status();
  return std::make_unique<Observer>(*std::move(observer));
}

}  // namespace kvsteward::engine
