// The pipeline over all layers of a sequence, on top of a LayerEngine: one eviction's decision, and rows into running
// scores, a layer per step. Thread-compatible, like the engine they drive.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/plan/layer_engine.h"
#include "kernels/plan/outline.h"
#include "kvsteward/engine/engine.h"
#include "kvsteward/engine/paged.h"
#include "kvsteward/engine/plan.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {

// `sequence` must stay valid until the observer is gone.
class Observer final : public Observation {
 public:
  // As Engine::StartObservation. Reads no tensor.
  static absl::StatusOr<Observer> Start(LayerEngine& engine, const SequenceView& sequence, const Policy& policy,
                                        const Budget& budget);

  bool finished() const override { return static_cast<int32_t>(running_.size()) == sequence_.geometry.layers; }
  // Accumulates the next layer.
  absl::Status Step() override;
  absl::Status Commit() override;

 private:
  Observer(LayerEngine& engine, const SequenceView& sequence, const Policy& policy, int64_t k);

  LayerEngine* engine_;
  SequenceView sequence_;
  Policy policy_;
  int64_t k_;
  std::vector<std::vector<float>> running_;  // [layers done]
};

// All layers are scored first where budgets need it, then selected. `sequence` must stay valid until the planner is
// gone.
class EvictionPlanner final : public Eviction {
 public:
  // As Engine::StartEviction. Reads positions with sinks or a span over the layer only, classes only if they protect.
  static absl::StatusOr<EvictionPlanner> Start(LayerEngine& engine, const SequenceView& sequence, const Policy& policy,
                                               const Budget& budget, bool keep_scores);

  bool finished() const override { return selected_ == layers_; }
  // Scores or selects the next layer, or divides the budget between the two.
  absl::Status Step() override;
  absl::Status CommitRunning() override;
  Plan TakePlan() override;

  double score_seconds() const override { return score_seconds_; }
  double select_seconds() const override { return select_seconds_; }

 private:
  EvictionPlanner(LayerEngine& engine, const SequenceView& sequence, const Policy& policy, bool keep_scores);

  absl::Status Score();
  void DivideBudget();
  void Select();
  LayerScores& ScoresOf(int32_t layer) { return scores_[scores_.size() == 1 ? 0 : static_cast<size_t>(layer)]; }

  LayerEngine* engine_;
  SequenceView sequence_;
  Policy policy_;
  bool keep_scores_;
  bool all_scores_first_;  // whether budgets need the scores of all layers
  int32_t layers_ = 0;     // 0 if there is nothing to do
  int32_t scored_ = 0;     // layers
  int32_t selected_ = 0;
  Outline outline_;                  // candidates of scored layers are those after pins
  std::vector<int64_t> totals_;      // [layers] that stay, once the budget is divided
  std::vector<LayerScores> scores_;  // [layers], or one that is used again if nobody needs them later
  // What stage 6 reads of each layer scored, made as it is scored so that no step is long.
  std::vector<double> entropies_;             // `entropy`
  std::vector<std::vector<double>> held_;     // `equal_mass`
  std::vector<std::vector<float>> running_;   // [layers scored] of a running policy
  std::vector<std::vector<int64_t>> shares_;  // [layers][kv_heads] if stage 6 decides them
  Plan plan_;
  double score_seconds_ = 0;
  double select_seconds_ = 0;
};

}  // namespace kvsteward::engine
