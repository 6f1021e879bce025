#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/reference/arithmetic.h"
#include "tests/reference/budgets.h"
#include "tests/reference/ranking.h"

namespace kvsteward::reference {
namespace {

constexpr int64_t kPpm = 1'000'000;

int64_t Total(const std::vector<int64_t>& counts) { return std::accumulate(counts.begin(), counts.end(), int64_t{0}); }

// floor(exact[u] / whole) as far as the unit has them, and the rest in rounds by descending remainder.
std::vector<int64_t> LargestRemainder(const std::vector<int64_t>& exact, int64_t whole,
                                      const std::vector<int64_t>& caps, int64_t total) {
  std::vector<int64_t> given;
  Row remainders;
  for (size_t u = 0; u < caps.size(); ++u) {
    given.push_back(std::min(exact[u] / whole, caps[u]));
    remainders.push_back(static_cast<double>(exact[u] % whole));
  }
  Rounds(total - Total(given), caps, remainders, &given);
  return given;
}

std::vector<int64_t> Blend(const Policy& policy, const std::vector<Emitted>& units, const std::vector<int64_t>& caps,
                           int64_t total) {
  const auto heads = static_cast<int64_t>(units.size());
  const std::vector<int64_t> joint = Joint(units, std::vector<int64_t>(units.size(), 0), caps, total);
  std::vector<int64_t> exact;
  for (const int64_t c : joint) exact.push_back((kPpm - policy.alpha_ppm) * c * heads + policy.alpha_ppm * total);
  return LargestRemainder(exact, kPpm * heads, caps, total);
}

std::vector<int64_t> Table(const std::vector<int64_t>& fractions, const std::vector<int64_t>& caps, int64_t total) {
  const int64_t sum = Total(fractions);
  if (sum == 0) return Uniform(caps, total);
  std::vector<int64_t> exact;
  for (const int64_t f : fractions) exact.push_back(f * total);
  return LargestRemainder(exact, sum, caps, total);
}

// FastGen. The protected tokens are the first two of the nested sets, so those cost no candidate.
std::vector<int64_t> Cheapest(const Policy& policy, const std::vector<Emitted>& units, const std::vector<int64_t>& caps,
                              int64_t total) {
  const int64_t uniform = total / static_cast<int64_t>(units.size());
  std::vector<int64_t> wanted;
  std::vector<int64_t> base;  // less the part that goes first
  std::vector<int64_t> offers;
  for (size_t u = 0; u < units.size(); ++u) {
    const int64_t frequent = std::min(uniform, caps[u]);
    std::vector<bool> in_frequent(units[u].scores.size(), false);
    const std::vector<Candidate> best = BestFirst({units[u]});
    for (int64_t i = 0; i < frequent; ++i) in_frequent[best[i].index] = true;
    double protected_mass = 0;
    double frequent_mass = 0;
    double candidate_mass = 0;
    for (size_t j = 0; j < units[u].scores.size(); ++j) {
      const double a = units[u].attention[j];
      if (units[u].scores[j] == kProtected) {
        protected_mass += a;
      } else {
        candidate_mass += a;
        if (in_frequent[j]) frequent_mass += a;
      }
    }
    const double enough = static_cast<double>(policy.enough_mass_ppm) / 1e6 * (protected_mass + candidate_mass);
    if (protected_mass >= enough) {
      wanted.push_back(0);
    } else if (protected_mass + frequent_mass >= enough) {
      wanted.push_back(frequent);
    } else {
      wanted.push_back(caps[u]);
    }
    base.push_back(std::min(wanted[u], frequent));
    offers.push_back(wanted[u] == caps[u] ? caps[u] : base[u]);
  }
  if (Total(wanted) <= total) return Joint(units, wanted, caps, total);
  return Joint(units, base, offers, total);  // their sum is at most heads * floor(total / heads)
}

// Task-KV.
std::vector<int64_t> Split(const Policy& policy, const std::vector<Emitted>& units, const std::vector<int64_t>& caps,
                           int64_t total, bool* unsplit) {
  const auto heads = static_cast<int64_t>(units.size());
  std::vector<size_t> order(units.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return units[a].distance > units[b].distance; });
  int64_t full = 0;
  for (int64_t f = 0; f <= std::min<int64_t>(policy.full_heads, heads); ++f) {
    int64_t held = 0;
    for (int64_t i = 0; i < f; ++i) held += caps[order[i]];
    if (held <= total - (heads - f) * (total / (5 * heads))) full = f;
  }
  *unsplit = full == 0;
  std::vector<int64_t> kept(units.size(), 0);
  std::vector<size_t> others(order.begin() + full, order.end());
  std::sort(others.begin(), others.end());
  for (int64_t i = 0; i < full; ++i) kept[order[i]] = caps[order[i]];
  std::vector<int64_t> other_caps;
  for (const size_t u : others) other_caps.push_back(caps[u]);
  const std::vector<int64_t> shared = Uniform(other_caps, total - Total(kept));
  for (size_t i = 0; i < others.size(); ++i) kept[others[i]] = shared[i];
  return kept;
}

}  // namespace

std::vector<int64_t> Uniform(const std::vector<int64_t>& caps, int64_t total) {
  std::vector<int64_t> given;
  for (const int64_t cap : caps) given.push_back(std::min(total / static_cast<int64_t>(caps.size()), cap));
  Rounds(total - Total(given), caps, Row(caps.size(), 0.0), &given);
  return given;
}

std::vector<int64_t> Floors(const Policy& policy, const std::vector<int64_t>& caps, int64_t total) {
  std::vector<int64_t> floors;
  for (const int64_t cap : caps) {
    floors.push_back(std::min(policy.alpha_ppm * total / (kPpm * static_cast<int64_t>(caps.size())), cap));
  }
  return floors;
}

std::vector<int64_t> HeadTotals(const Policy& policy, int layer, const std::vector<Emitted>& units, int64_t total,
                                bool* unsplit) {
  const std::vector<int64_t> caps = CandidateCounts(units);
  switch (policy.head) {
    case Head::kUniform:
      return Uniform(caps, total);
    case Head::kAdaFloor:
      return Joint(units, Floors(policy, caps, total), caps, total);
    case Head::kAdaBlend:
      return Blend(policy, units, caps, total);
    case Head::kTable:
      return Table(policy.head_table[layer], caps, total);
    case Head::kCheapest:
      return Cheapest(policy, units, caps, total);
    case Head::kSplit:
      return Split(policy, units, caps, total, unsplit);
  }
  return {};
}

Row Distances(const Sequence& sequence, int layer, const std::vector<Row>& attention) {
  std::vector<Row> summaries;
  Row mean(sequence.head_dim, 0.0);
  for (int h = 0; h < sequence.kv_heads; ++h) {
    const Row column = AvgPooled(attention[h], 7, /*padded=*/true);
    std::vector<size_t> best(column.size());
    std::iota(best.begin(), best.end(), size_t{0});
    std::stable_sort(best.begin(), best.end(), [&](size_t a, size_t b) { return column[a] > column[b]; });
    best.resize(std::min<size_t>(best.size(), 256));
    std::sort(best.begin(), best.end());
    const Row& values = sequence.units[static_cast<size_t>(layer) * sequence.kv_heads + h].values;
    summaries.emplace_back(sequence.head_dim, 0.0);
    for (int x = 0; x < sequence.head_dim; ++x) {
      for (const size_t j : best) summaries[h][x] += column[j] * values[j * sequence.head_dim + x];
      mean[x] += summaries[h][x] / sequence.kv_heads;
    }
  }
  Row distances;
  for (const Row& summary : summaries) {
    double squares = 0;
    for (int x = 0; x < sequence.head_dim; ++x) squares += (summary[x] - mean[x]) * (summary[x] - mean[x]);
    distances.push_back(std::sqrt(squares));
  }
  return distances;
}

}  // namespace kvsteward::reference
