#include "tests/reference/ranking.h"

#include <algorithm>
#include <numeric>

namespace kvsteward::reference {

std::vector<Candidate> BestFirst(const std::vector<Emitted>& units) {
  std::vector<Candidate> best;
  for (size_t u = 0; u < units.size(); ++u) {
    for (size_t j = 0; j < units[u].scores.size(); ++j) {
      if (units[u].scores[j] != kProtected) best.push_back({units[u].scores[j], u, j});
    }
  }
  std::stable_sort(best.begin(), best.end(), [](const Candidate& a, const Candidate& b) { return a.score > b.score; });
  return best;
}

std::vector<int64_t> CandidateCounts(const std::vector<Emitted>& units) {
  std::vector<int64_t> counts(units.size(), 0);
  for (const Candidate& c : BestFirst(units)) ++counts[c.unit];
  return counts;
}

std::vector<int64_t> Joint(const std::vector<Emitted>& units, const std::vector<int64_t>& floors,
                           const std::vector<int64_t>& offers, int64_t total) {
  std::vector<int64_t> rank(units.size(), 0);
  std::vector<size_t> rest;  // units of the candidates that compete, best first
  for (const Candidate& c : BestFirst(units)) {
    const int64_t r = rank[c.unit]++;
    if (r >= floors[c.unit] && r < offers[c.unit]) rest.push_back(c.unit);
  }
  std::vector<int64_t> kept = floors;
  const int64_t left = total - std::accumulate(floors.begin(), floors.end(), int64_t{0});
  for (int64_t i = 0; i < left; ++i) ++kept[rest.at(static_cast<size_t>(i))];
  return kept;
}

void Rounds(int64_t left, const std::vector<int64_t>& caps, const Row& remainders, std::vector<int64_t>* given) {
  std::vector<size_t> order(caps.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return remainders[a] > remainders[b]; });
  while (left > 0) {
    for (const size_t u : order) {
      if (left == 0 || (*given)[u] >= caps[u]) continue;
      ++(*given)[u];
      --left;
    }
  }
}

}  // namespace kvsteward::reference
