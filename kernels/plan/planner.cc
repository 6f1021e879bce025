// The pipeline over all layers of a sequence: scores, budgets of layers, selection.
#include "kvsteward/engine/planner.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <string>
#include <utility>

#include "kernels/plan/check.h"
#include "kernels/plan/layer_budget.h"
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

// A plan that keeps everything.
void KeepAll(Plan& plan) {
  for (size_t u = 0; u < plan.kept.size(); ++u) {
    const auto begin = plan.mask.begin() + plan.mask_offsets[u];
    std::fill(begin, plan.mask.begin() + plan.mask_offsets[u + 1], ~uint64_t{0});
    if (plan.kept[u] % 64 != 0) begin[plan.kept[u] / 64] = (uint64_t{1} << (plan.kept[u] % 64)) - 1;
  }
}

}  // namespace

EvictionPlanner::EvictionPlanner(Engine& engine, const SequenceView& sequence, const Policy& policy, bool keep_scores)
    : engine_(&engine),
      sequence_(sequence),
      policy_(policy),
      keep_scores_(keep_scores),
      all_scores_first_(policy.layer.reads_scores() || policy.protect.mass_ppm > 0) {}

absl::StatusOr<EvictionPlanner> EvictionPlanner::Start(Engine& engine, const SequenceView& sequence,
                                                       const Policy& policy, const Budget& budget, bool keep_scores) {
  const Geometry& geometry = sequence.geometry;
  if (absl::Status status = CheckEviction(sequence, policy); !status.ok()) return status;
  absl::StatusOr<int64_t> k = BudgetTokens(budget, geometry, sequence.seen);
  if (!k.ok()) return k.status();

  EvictionPlanner planner(engine, sequence, policy, keep_scores);
  const auto layers = static_cast<size_t>(geometry.layers);
  planner.residents_.assign(layers, 0);
  planner.candidates_.assign(layers, 0);
  Plan& plan = planner.plan_;
  plan.budget_tokens = *k;
  plan.mask_offsets.push_back(0);
  for (size_t u = 0; u < sequence.units.size(); ++u) {
    const UnitView& unit = sequence.units[u];
    const size_t layer = u / static_cast<size_t>(geometry.kv_heads);
    planner.residents_[layer] += unit.length;
    planner.candidates_[layer] += Candidates(unit, sequence.pool, sequence.inputs.classes, policy.protect, *k).size();
    plan.kept.push_back(unit.length);
    plan.mask_offsets.push_back(plan.mask_offsets.back() + (unit.length + 63) / 64);
  }
  plan.layer_budgets = planner.residents_;
  plan.mask.assign(static_cast<size_t>(plan.mask_offsets.back()), 0);

  plan.no_op = Sum(planner.residents_) <= int64_t{geometry.layers} * geometry.kv_heads * *k;
  if (plan.no_op) {
    KeepAll(plan);
    return planner;
  }
  planner.layers_ = geometry.layers;
  planner.scores_.resize(keep_scores || planner.all_scores_first_ ? layers : 1);
  // What is protected now is protected whatever is pinned later: what does not fit is refused before anything is read.
  if (absl::Status status = planner.CheckProtected(); !status.ok()) return status;
  if (!planner.all_scores_first_) planner.DivideBudget();
  return planner;
}

absl::Status EvictionPlanner::Step() {
  if (scored_ < layers_ && (all_scores_first_ || scored_ == selected_)) {
    if (absl::Status status = Score(); !status.ok()) return status;
    if (all_scores_first_) return absl::OkStatus();
  } else if (totals_.empty()) {
    if (absl::Status status = CheckProtected(); !status.ok()) return status;
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
  if (policy_.protect.mass_ppm == 0 && candidates != candidates_[layer]) {
    return absl::InvalidArgumentError("classes protect " + std::to_string(residents_[layer] - candidates) +
                                      " tokens of layer " + std::to_string(scored_) + ", but protected " +
                                      std::to_string(residents_[layer] - candidates_[layer]) +
                                      " before; leave them unchanged during a call");
  }
  candidates_[layer] = candidates;
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

int64_t EvictionPlanner::CandidatesThatStay() const {
  return int64_t{sequence_.geometry.layers} * sequence_.geometry.kv_heads * plan_.budget_tokens -
         (Sum(residents_) - Sum(candidates_));
}

absl::Status EvictionPlanner::CheckProtected() const {
  if (CandidatesThatStay() >= 0) return absl::OkStatus();
  const int64_t total = int64_t{sequence_.geometry.layers} * sequence_.geometry.kv_heads * plan_.budget_tokens;
  return absl::InvalidArgumentError("budget is " + std::to_string(plan_.budget_tokens) + " tokens per kv head, " +
                                    std::to_string(total) + " in all; policy " + policy_.name + " protects " +
                                    std::to_string(Sum(residents_) - Sum(candidates_)) +
                                    " of the sequence, so it must be larger");
}

void EvictionPlanner::DivideBudget() {
  const Stopwatch watch(select_seconds_);
  const int64_t kv_heads = sequence_.geometry.kv_heads;
  const int64_t total = CandidatesThatStay();
  std::vector<int64_t> layer_shares;
  switch (policy_.layer.kind) {
    case LayerBudget::Kind::kGlobal:
      shares_ = GlobalShares(scores_, policy_.head.alpha_ppm, total);
      for (const std::vector<int64_t>& shares : shares_) layer_shares.push_back(Sum(shares));
      break;
    case LayerBudget::Kind::kEqualMass:
      layer_shares = EqualMassShares(held_, candidates_, total, kv_heads);
      break;
    default: {
      // With a span over the layer its heads keep the same tokens: budgets are made per head.
      const int64_t step = policy_.group.span == Group::Span::kLayer ? kv_heads : 1;
      std::vector<int64_t> caps = candidates_;
      for (int64_t& cap : caps) cap /= step;
      layer_shares = LayerShares(policy_.layer, caps, total / step, kv_heads / step, entropies_);
      for (int64_t& share : layer_shares) share *= step;
    }
  }
  for (size_t l = 0; l < layer_shares.size(); ++l) {
    totals_.push_back(residents_[l] - candidates_[l] + layer_shares[l]);
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

void EvictionPlanner::CommitRunning() {
  for (size_t l = 0; l < running_.size(); ++l) {
    engine_->StoreRunning(sequence_, static_cast<int32_t>(l), running_[l]);
  }
}

Plan EvictionPlanner::TakePlan() {
  if (keep_scores_) plan_.scores = std::move(scores_);
  return std::move(plan_);
}

}  // namespace kvsteward::engine
