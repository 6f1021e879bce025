// Stages 6 to 8 of the reference, in order.
#include <algorithm>
#include <numeric>

#include "tests/reference/budgets.h"
#include "tests/reference/ranking.h"
#include "tests/reference/reference.h"
#include "tests/reference/select.h"

namespace kvsteward::reference {

Decision Decide(const Policy& policy, int layers, int kv_heads, int64_t k, int rows,
                const std::vector<Emitted>& units) {
  Decision decision;
  int64_t residents = 0;
  for (const Emitted& unit : units) {
    decision.keep.emplace_back(unit.scores.size(), true);
    residents += static_cast<int64_t>(unit.scores.size());
  }
  const int64_t budget = k * layers * kv_heads;
  if (residents <= budget) return decision;

  const std::vector<int64_t> counts = CandidateCounts(units);
  const int64_t candidates = std::accumulate(counts.begin(), counts.end(), int64_t{0});
  const int64_t total = budget - (residents - candidates);
  std::vector<int64_t> jointly;
  if (policy.layer == Layer::kGlobal) jointly = Joint(units, Floors(policy, counts, total), counts, total);
  const std::vector<int64_t> totals = LayerTotals(policy, layers, kv_heads, units, total);

  for (int l = 0; l < layers; ++l) {
    const int64_t first = int64_t{l} * kv_heads;
    const std::vector<Emitted> layer(units.begin() + first, units.begin() + first + kv_heads);
    if (policy.select == Select::kBlock) {
      const std::vector<std::vector<bool>> keep = SelectByBlocks(policy, layer, totals[l]);
      std::copy(keep.begin(), keep.end(), decision.keep.begin() + first);
      continue;
    }
    bool unsplit = false;
    std::vector<int64_t> budgets;
    if (policy.layer == Layer::kGlobal) {
      budgets.assign(jointly.begin() + first, jointly.begin() + first + kv_heads);
    } else {
      budgets = HeadTotals(policy, l, layer, totals[l], &unsplit);
    }
    decision.unsplit_layers += unsplit ? 1 : 0;
    for (int h = 0; h < kv_heads; ++h) {
      decision.keep[first + h] = SelectUnit(policy, l, h, rows, layer[h], budgets[h]);
    }
  }
  return decision;
}

}  // namespace kvsteward::reference
