// Rows of queries into running scores, a layer per step.
#include <utility>

#include "kernels/plan/check.h"
#include "kernels/plan/planner.h"

namespace kvsteward::engine {

Observer::Observer(LayerEngine& engine, const SequenceView& sequence, const Policy& policy, int64_t k)
    : engine_(&engine), sequence_(sequence), policy_(policy), k_(k) {}

absl::StatusOr<Observer> Observer::Start(LayerEngine& engine, const SequenceView& sequence, const Policy& policy,
                                         const Budget& budget) {
  if (absl::Status status = CheckObservation(sequence, policy); !status.ok()) return status;
  absl::StatusOr<int64_t> k = 0;
  if (SignalReadsBudget(policy) || budget.amount != 0) k = BudgetTokens(budget, sequence.geometry, sequence.seen);
  if (!k.ok()) return k.status();
  return Observer(engine, sequence, policy, *k);
}

absl::Status Observer::Step() {
  const auto layer = static_cast<int32_t>(running_.size());
  std::vector<float> running;
  if (absl::Status status = engine_->AccumulateLayer(sequence_, policy_, k_, layer, &running); !status.ok()) {
    return status;
  }
  running_.push_back(std::move(running));
  return absl::OkStatus();
}

absl::Status Observer::Commit() {
  for (size_t l = 0; l < running_.size(); ++l) {
    engine_->StoreRunning(sequence_, static_cast<int32_t>(l), running_[l]);
  }
  return absl::OkStatus();
}

}  // namespace kvsteward::engine
