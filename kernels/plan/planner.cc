// The pipeline over all layers of a sequence: scores, budgets of layers, selection.
#include "kernels/plan/planner.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <string>
#include <utility>

#include "kernels/plan/check.h"
#include "kernels/plan/layer_budget.h"
#include "kernels/plan/outline.h"
#include "kernels/plan/protect.h"

namespace kvsteward::engine {
namespace {

// Adds the time until it goes.
class Stopwatch {
 public:
  explicit Stopwatch(double& seconds) : seconds_(seconds) {}
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;
  ~Stopwatch() { seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  double& seconds_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

int64_t Sum(const std::vector<int64_t>& values) { return std::accumulate(values.begin(), values.end(), int64_t{0}); }

}  // namespace

EvictionPlanner::EvictionPlanner(LayerEngine& engine, const SequenceView& sequence, const Policy& policy,
                                 bool keep_scores)
    : engine_(&engine),
      sequence_(sequence),
      policy_(policy),
      keep_scores_(keep_scores),
      all_scores_first_(policy.layer.reads_scores() || policy.protect.mass_ppm > 0) {}

absl::StatusOr<EvictionPlanner> EvictionPlanner::Start(LayerEngine& engine, const SequenceView& sequence,
                                                       const Policy& policy, const Budget& budget, bool keep_scores) {
  const Geometry& geometry = sequence.geometry;
  if (absl::Status status = CheckEviction(sequence, policy); !status.ok()) return status;
  absl::StatusOr<int64_t> k = BudgetTokens(budget, geometry, sequence.seen);
  if (!k.ok()) return k.status();

  std::vector<int32_t> candidates;
  for (const UnitView& unit : sequence.units) {
    candidates.push_back(Candidates(unit, sequence.pool, sequence.inputs.classes, policy.protect, *k).size());
  }
  EvictionPlanner planner(engine, sequence, policy, keep_scores);
  planner.outline_ = Outline::Of(sequence, *k, candidates);
  planner.plan_ = EmptyPlan(sequence, planner.outline_, /*masks=*/true);
  if (planner.outline_.no_op()) {
    KeepAll(planner.plan_);
    return planner;
  }
  planner.layers_ = geometry.layers;
  planner.scores_.resize(keep_scores || planner.all_scores_first_ ? static_cast<size_t>(geometry.layers) : 1);
  // What is protected now is protected whatever is pinned later: what does not fit is refused before anything is read.
  if (absl::Status status = planner.outline_.CheckProtected(policy); !status.ok()) return status;
  if (!planner.all_scores_first_) planner.DivideBudget();
  return planner;
}

absl::Status EvictionPlanner::Step() {
  if (scored_ < layers_ && (all_scores_first_ || scored_ == selected_)) {
    if (absl::Status status = Score(); !status.ok()) return status;
    if (all_scores_first_) return absl::OkStatus();
  } else if (totals_.empty()) {
    if (absl::Status status = outline_.CheckProtected(policy_); !status.ok()) return status;
    DivideBudget();
    return absl::OkStatus();
  }
  Select();
  return absl::OkStatus();
}

absl::Status EvictionPlanner::Score() {
  const auto layer = static_cast<size_t>(scored_);
  LayerScores& scores = ScoresOf(scored_);
  {
    const Stopwatch watch(score_seconds_);
    absl::Status status = engine_->ScoreLayer(sequence_, policy_, plan_.budget_tokens, scored_, &scores);
    if (!status.ok()) return status;
  }
  const Stopwatch watch(select_seconds_);
  const int64_t candidates =
      std::count_if(scores.scores.begin(), scores.scores.end(), [](float score) { return score >= 0; });
  // The caller's bytes may change; what was checked before must hold for what is selected now.
  if (policy_.protect.mass_ppm == 0 && candidates != outline_.candidates[layer]) {
    return absl::InvalidArgumentError("classes protect " + std::to_string(outline_.residents[layer] - candidates) +
                                      " tokens of layer " + std::to_string(scored_) + ", but protected " +
                                      std::to_string(outline_.residents[layer] - outline_.candidates[layer]) +
                                      " before; leave them unchanged during a call");
  }
  outline_.candidates[layer] = candidates;
  if (policy_.layer.kind == LayerBudget::Kind::kEntropy) entropies_.push_back(LayerEntropy(scores));
  if (policy_.layer.kind == LayerBudget::Kind::kEqualMass) {
    held_.push_back(HeldByHighest(scores, sequence_.geometry.kv_heads));
  }
  if (policy_.running()) {
    running_.push_back(keep_scores_ ? scores.running : std::move(scores.running));
  }
  ++scored_;
  return absl::OkStatus();
}

void EvictionPlanner::DivideBudget() {
  const Stopwatch watch(select_seconds_);
  const int64_t total = outline_.candidates_that_stay();
  std::vector<int64_t> layer_shares;
  switch (policy_.layer.kind) {
    case LayerBudget::Kind::kGlobal:
      shares_ = GlobalShares(scores_, policy_.head.alpha_ppm, total);
      for (const std::vector<int64_t>& shares : shares_) layer_shares.push_back(Sum(shares));
      break;
    case LayerBudget::Kind::kEqualMass:
      layer_shares = EqualMassShares(held_, outline_.candidates, total, outline_.kv_heads);
      break;
    default:
      layer_shares = outline_.SharesOfLayers(policy_, entropies_);
  }
  for (size_t l = 0; l < layer_shares.size(); ++l) {
    totals_.push_back(outline_.residents[l] - outline_.candidates[l] + layer_shares[l]);
  }
}

void EvictionPlanner::Select() {
  const Stopwatch watch(select_seconds_);
  const auto layer = static_cast<size_t>(selected_);
  const auto heads = static_cast<size_t>(sequence_.geometry.kv_heads);
  std::vector<std::span<uint64_t>> masks;
  for (size_t u = layer * heads; u < (layer + 1) * heads; ++u) {
    masks.push_back(std::span(plan_.mask)
                        .subspan(static_cast<size_t>(plan_.mask_offsets[u]),
                                 static_cast<size_t>(plan_.mask_offsets[u + 1] - plan_.mask_offsets[u])));
  }
  const std::span<int32_t> kept = std::span(plan_.kept).subspan(layer * heads, heads);
  LayerChoice choice{.layer = selected_, .total = totals_[layer], .shares = {}, .kept = kept, .masks = masks};
  if (!shares_.empty()) choice.shares = shares_[layer];
  engine_->SelectLayer(sequence_, policy_, ScoresOf(selected_), choice);
  plan_.layer_budgets[layer] = std::accumulate(kept.begin(), kept.end(), int64_t{0});
  plan_.unsplit_layers += choice.unsplit ? 1 : 0;
  if (!keep_scores_ && all_scores_first_) scores_[layer] = {};
  ++selected_;
}

absl::Status EvictionPlanner::CommitRunning() {
  for (size_t l = 0; l < running_.size(); ++l) {
    engine_->StoreRunning(sequence_, static_cast<int32_t>(l), running_[l]);
  }
  return absl::OkStatus();
}

Plan EvictionPlanner::TakePlan() {
  if (keep_scores_) plan_.scores = std::move(scores_);
  return std::move(plan_);
}

}  // namespace kvsteward::engine
