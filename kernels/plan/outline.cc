#include "kernels/plan/outline.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "kernels/plan/layer_budget.h"

namespace kvsteward::engine {
namespace {

int64_t Sum(const std::vector<int64_t>& values) { return std::accumulate(values.begin(), values.end(), int64_t{0}); }

}  // namespace

Outline Outline::Of(const SequenceView& sequence, int64_t k, std::span<const int32_t> candidates) {
  const auto layers = static_cast<size_t>(sequence.geometry.layers);
  Outline outline{.kv_heads = sequence.geometry.kv_heads,
                  .k = k,
                  .residents = std::vector<int64_t>(layers),
                  .candidates = std::vector<int64_t>(layers)};
  for (size_t u = 0; u < sequence.units.size(); ++u) {
    const size_t layer = u / static_cast<size_t>(outline.kv_heads);
    outline.residents[layer] += sequence.units[u].length;
    outline.candidates[layer] += candidates[u];
  }
  return outline;
}

bool Outline::no_op() const { return Sum(residents) <= total(); }

int64_t Outline::candidates_that_stay() const { return total() - (Sum(residents) - Sum(candidates)); }

absl::Status Outline::CheckProtected(const Policy& policy) const {
  if (candidates_that_stay() >= 0) return absl::OkStatus();
  return absl::InvalidArgumentError("budget is " + std::to_string(k) + " tokens per kv head, " +
                                    std::to_string(total()) + " in all; policy " + policy.name + " protects " +
                                    std::to_string(Sum(residents) - Sum(candidates)) +
                                    " of the sequence, so it must be larger");
}

std::vector<int64_t> Outline::SharesOfLayers(const Policy& policy, std::span<const double> entropies) const {
  // With a span over the layer its heads keep the same tokens: budgets are made per head.
  const int64_t step = policy.group.span == Group::Span::kLayer ? kv_heads : 1;
  std::vector<int64_t> caps = candidates;
  for (int64_t& cap : caps) cap /= step;
  std::vector<int64_t> shares =
      LayerShares(policy.layer, caps, candidates_that_stay() / step, kv_heads / step, entropies);
  for (int64_t& share : shares) share *= step;
  return shares;
}

Plan EmptyPlan(const SequenceView& sequence, const Outline& outline, bool masks) {
  Plan plan;
  plan.budget_tokens = outline.k;
  plan.layer_budgets = outline.residents;
  plan.mask_offsets.push_back(0);
  for (const UnitView& unit : sequence.units) {
    plan.kept.push_back(unit.length);
    plan.mask_offsets.push_back(plan.mask_offsets.back() + (unit.length + 63) / 64);
  }
  if (masks) plan.mask.assign(static_cast<size_t>(plan.mask_offsets.back()), 0);
  return plan;
}

void KeepAll(Plan& plan) {
  plan.no_op = true;
  if (plan.mask.empty()) return;
  for (size_t u = 0; u < plan.kept.size(); ++u) {
    const auto begin = plan.mask.begin() + plan.mask_offsets[u];
    std::fill(begin, plan.mask.begin() + plan.mask_offsets[u + 1], ~uint64_t{0});
    if (plan.kept[u] % 64 != 0) begin[plan.kept[u] / 64] = (uint64_t{1} << (plan.kept[u] % 64)) - 1;
  }
}

}  // namespace kvsteward::engine
