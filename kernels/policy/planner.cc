// The pipeline over all layers of a sequence: budgets of layers first, then a layer per step.
#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "kernels/policy/allot.h"
#include "kernels/policy/protect.h"
#include "kvsteward/engine/engine.h"

namespace kvsteward::engine {
namespace {

constexpr int32_t kMaxKvHeads = 4096;  // what the integer arithmetic of the head budgets carries

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

absl::Status ValidateGeometry(const Geometry& geometry, size_t units) {
  if (geometry.layers < 1 || geometry.kv_heads < 1 || geometry.kv_heads > kMaxKvHeads || geometry.head_dim < 1 ||
      geometry.query_heads < 1 || geometry.query_heads % geometry.kv_heads != 0) {
    return absl::InvalidArgumentError("geometry has " + std::to_string(geometry.layers) + " layers, " +
                                      std::to_string(geometry.query_heads) + " query heads, " +
                                      std::to_string(geometry.kv_heads) + " kv heads and head_dim " +
                                      std::to_string(geometry.head_dim) +
                                      "; all must be at least 1, kv heads at most 4096 and a divisor of query heads");
  }
  if (int64_t{geometry.layers} * geometry.kv_heads != static_cast<int64_t>(units)) {
    return absl::InvalidArgumentError("units has " + std::to_string(units) +
                                      " entries; it must have layers * kv_heads");
  }
  return absl::OkStatus();
}

absl::Status ValidateWindow(const WindowView& window, const Policy& policy, int64_t seen) {
  if (!policy.reads_queries()) return absl::OkStatus();
  if (window.rows < 1 || window.queries == nullptr) {
    return absl::InvalidArgumentError("window has no query rows; policy " + policy.name + " needs at least 1");
  }
  if (window.positions.size() != static_cast<size_t>(window.rows)) {
    return absl::InvalidArgumentError("window.positions has " + std::to_string(window.positions.size()) +
                                      " entries; it must have one per row, " + std::to_string(window.rows));
  }
  int64_t previous = -1;
  for (const int32_t position : window.positions) {
    if (position <= previous || position >= seen) {
      return absl::InvalidArgumentError("window.positions has " + std::to_string(position) + " after " +
                                        std::to_string(previous) + "; they must ascend from 0 and stay below the " +
                                        std::to_string(seen) + " tokens seen");
    }
    previous = position;
  }
  return absl::OkStatus();
}

}  // namespace

EvictionPlanner::EvictionPlanner(Engine& engine, const SequenceView& sequence, const Policy& policy, bool keep_scores)
    : engine_(&engine), sequence_(sequence), policy_(policy), keep_scores_(keep_scores) {}

absl::StatusOr<EvictionPlanner> EvictionPlanner::Start(Engine& engine, const SequenceView& sequence,
                                                       const Policy& policy, const Budget& budget, bool keep_scores) {
  const Geometry& geometry = sequence.geometry;
  if (absl::Status status = Validate(policy); !status.ok()) return status;
  if (absl::Status status = ValidateGeometry(geometry, sequence.units.size()); !status.ok()) return status;
  absl::StatusOr<int64_t> k = BudgetTokens(budget, geometry, sequence.seen);
  if (!k.ok()) return k.status();
  if (absl::Status status = ValidateWindow(sequence.window, policy, sequence.seen); !status.ok()) return status;

  EvictionPlanner planner(engine, sequence, policy, keep_scores);
  Plan& plan = planner.plan_;
  plan.budget_tokens = *k;
  plan.mask_offsets.push_back(0);
  std::vector<int64_t> candidates(geometry.layers, 0);  // per layer
  plan.layer_budgets.assign(geometry.layers, 0);        // so far: the layer's protected tokens
  int64_t residents = 0;
  int64_t protected_tokens = 0;
  for (size_t u = 0; u < sequence.units.size(); ++u) {
    const UnitView& unit = sequence.units[u];
    const size_t layer = u / static_cast<size_t>(geometry.kv_heads);
    const int64_t m = Candidates(unit, sequence.pool, policy.protect, *k).size();
    candidates[layer] += m;
    plan.layer_budgets[layer] += unit.length - m;
    protected_tokens += unit.length - m;
    residents += unit.length;
    plan.kept.push_back(unit.length);
    plan.mask_offsets.push_back(plan.mask_offsets.back() + (unit.length + 63) / 64);
  }
  plan.mask.assign(static_cast<size_t>(plan.mask_offsets.back()), 0);

  const int64_t total = int64_t{geometry.layers} * geometry.kv_heads * *k;
  plan.no_op = residents <= total;
  if (!plan.no_op && protected_tokens > total) {
    return absl::InvalidArgumentError("budget is " + std::to_string(*k) + " tokens per kv head, " +
                                      std::to_string(total) + " in all; policy " + policy.name + " protects " +
                                      std::to_string(protected_tokens) + " of the sequence, so it must be larger");
  }
  const std::vector<int64_t> shares = LayerShares(policy.layer, candidates, total - protected_tokens);
  for (size_t l = 0; l < shares.size(); ++l) plan.layer_budgets[l] += shares[l];

  if (plan.no_op) {
    for (size_t u = 0; u < sequence.units.size(); ++u) {
      const auto begin = plan.mask.begin() + plan.mask_offsets[u];
      std::fill(begin, plan.mask.begin() + plan.mask_offsets[u + 1], ~uint64_t{0});
      if (plan.kept[u] % 64 != 0) begin[plan.kept[u] / 64] = (uint64_t{1} << (plan.kept[u] % 64)) - 1;
    }
  } else {
    planner.layers_ = geometry.layers;
    if (keep_scores) plan.scores.resize(static_cast<size_t>(geometry.layers));
  }
  return planner;
}

absl::Status EvictionPlanner::Step() {
  const auto layer = static_cast<size_t>(next_layer_);
  LayerScores& scores = keep_scores_ ? plan_.scores[layer] : scratch_;
  const auto start = std::chrono::steady_clock::now();
  const absl::Status status = engine_->ScoreLayer(sequence_, policy_, plan_.budget_tokens, next_layer_, &scores);
  score_seconds_ += SecondsSince(start);
  if (!status.ok()) return status;

  const auto select_start = std::chrono::steady_clock::now();
  const auto heads = static_cast<size_t>(sequence_.geometry.kv_heads);
  std::vector<std::span<uint64_t>> masks;
  for (size_t u = layer * heads; u < (layer + 1) * heads; ++u) {
    masks.push_back(std::span(plan_.mask)
                        .subspan(static_cast<size_t>(plan_.mask_offsets[u]),
                                 static_cast<size_t>(plan_.mask_offsets[u + 1] - plan_.mask_offsets[u])));
  }
  engine_->SelectLayer(scores, policy_, plan_.layer_budgets[layer], std::span(plan_.kept).subspan(layer * heads, heads),
                       masks);
  select_seconds_ += SecondsSince(select_start);
  ++next_layer_;
  return absl::OkStatus();
}

Plan EvictionPlanner::TakePlan() { return std::move(plan_); }

}  // namespace kvsteward::engine
