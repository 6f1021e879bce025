// The pipeline over all layers of a sequence, on top of an Engine: one eviction's decision, and rows into running
// scores. Thread-compatible, like the engine they drive.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvsteward/engine/engine.h"
#include "kvsteward/engine/paged.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {

// What one eviction decided. Bit j % 64 of word j / 64 of a unit's mask says that its resident j stays.
struct Plan {
  bool no_op = false;                  // every layer was within its budget: all stays, nothing was read
  int64_t budget_tokens = 0;           // k: tokens kept per kv head, mean over the sequence
  std::vector<int32_t> kept;           // [units] residents that stay
  std::vector<int64_t> layer_budgets;  // [layers] sums of `kept`
  std::vector<uint64_t> mask;          // all units' words
  std::vector<int64_t> mask_offsets;   // [units + 1] into `mask`, in words
  std::vector<LayerScores> scores;     // [layers] if the caller asked for them and the plan is not a no-op, else empty
  int32_t unsplit_layers = 0;          // layers in which `split` found room for no full head

  std::span<const uint64_t> UnitMask(int32_t unit) const {
    return std::span(mask).subspan(static_cast<size_t>(mask_offsets[unit]),
                                   static_cast<size_t>(mask_offsets[unit + 1] - mask_offsets[unit]));
  }
};

// The mean budget k of a sequence in tokens per kv head; INVALID_ARGUMENT if it is below 1 or not to be had.
absl::StatusOr<int64_t> BudgetTokens(const Budget& budget, const Geometry& geometry, int64_t seen);

// Rows of queries into running scores (stages 1-3), a layer per step; nothing changes until all layers are done and the
// caller says Commit. `sequence` must stay valid until the observer is gone.
class Observer {
 public:
  // Validates policy, window and budget; `budget` may have amount 0 where the signal does not depend on it. ABORTED if
  // the window's rows are not the ones that follow `observed`. Reads no tensor.
  static absl::StatusOr<Observer> Start(Engine& engine, const SequenceView& sequence, const Policy& policy,
                                        const Budget& budget);

  bool finished() const { return static_cast<int32_t>(running_.size()) == sequence_.geometry.layers; }
  // Accumulates the next layer. REQUIRES: !finished().
  absl::Status Step();
  // Stores the running scores of all layers. REQUIRES: finished().
  void Commit();

 private:
  Observer(Engine& engine, const SequenceView& sequence, const Policy& policy, int64_t k);

  Engine* engine_;
  SequenceView sequence_;
  Policy policy_;
  int64_t k_;
  std::vector<std::vector<float>> running_;  // [layers done]
};

// One eviction's decision, a layer per step, so that a device can be shared fairly between sequences: all layers are
// scored first where budgets need it, then selected. Nothing of the sequence changes but the cached norms. `sequence`
// must stay valid until the planner is gone.
class EvictionPlanner {
 public:
  // Validates policy, budget, window, inputs and the protected total against the sequence. Reads no tensor; positions
  // only with a span over the layer, classes only if they protect.
  static absl::StatusOr<EvictionPlanner> Start(Engine& engine, const SequenceView& sequence, const Policy& policy,
                                               const Budget& budget, bool keep_scores);

  bool finished() const { return selected_ == layers_; }
  // Scores or selects the next layer, or divides the budget between the two. REQUIRES: !finished().
  absl::Status Step();
  // Stores the running scores that the plan was made from; nothing for other policies and no-ops. REQUIRES: finished().
  void CommitRunning();
  // REQUIRES: finished().
  Plan TakePlan();

  // Seconds spent in scoring, and in budgets and selection.
  double score_seconds() const { return score_seconds_; }
  double select_seconds() const { return select_seconds_; }

 private:
  EvictionPlanner(Engine& engine, const SequenceView& sequence, const Policy& policy, bool keep_scores);

  absl::Status Score();
  int64_t CandidatesThatStay() const;
  absl::Status CheckProtected() const;
  void DivideBudget();
  void Select();
  LayerScores& ScoresOf(int32_t layer) { return scores_[scores_.size() == 1 ? 0 : static_cast<size_t>(layer)]; }

  Engine* engine_;
  SequenceView sequence_;
  Policy policy_;
  bool keep_scores_;
  bool all_scores_first_;  // whether budgets need the scores of all layers
  int32_t layers_ = 0;     // 0 if there is nothing to do
  int32_t scored_ = 0;     // layers
  int32_t selected_ = 0;
  std::vector<int64_t> residents_;   // [layers]
  std::vector<int64_t> candidates_;  // [layers] before pins, of scored layers after them
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
