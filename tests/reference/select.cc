#include "tests/reference/select.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "tests/reference/budgets.h"
#include "tests/reference/ranking.h"

namespace kvsteward::reference {
namespace {

// Takes the `count` tokens of highest worth, lower position first among equals, from those that `may` stay and do not.
void TakeBest(int64_t count, const std::function<bool(size_t)>& may, const std::function<double(size_t)>& worth,
              std::vector<bool>* keep) {
  std::vector<size_t> order;
  for (size_t j = 0; j < keep->size(); ++j) {
    if (!(*keep)[j] && may(j)) order.push_back(j);
  }
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return worth(a) > worth(b); });
  for (size_t i = 0; i < order.size() && static_cast<int64_t>(i) < count; ++i) (*keep)[order[i]] = true;
}

double DrawnKey(const Policy& policy, int layer, int head, int64_t position, double score) {
  const uint32_t x = Philox({static_cast<uint32_t>(layer), static_cast<uint32_t>(policy.span_layer ? 0 : head),
                             static_cast<uint32_t>(position), 0},
                            {policy.seed, 0})[0];
  const double u = (x + 0.5) / 4294967296.0;
  return score - std::log(-std::log(u));
}

// A unit's candidates as they go: lowest score first, of equals the higher position.
std::vector<size_t> LowestFirst(const Emitted& unit) {
  std::vector<size_t> lowest;
  for (const Candidate& c : BestFirst({unit})) lowest.push_back(c.index);
  std::reverse(lowest.begin(), lowest.end());
  return lowest;
}

}  // namespace

std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = uint64_t{0xD2511F53} * counter[0];
    const uint64_t second = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(second >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(second),
               static_cast<uint32_t>(first >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(first)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

std::vector<bool> SelectUnit(const Policy& policy, int layer, int head, int rows, const Emitted& unit, int64_t budget) {
  const auto score = [&](size_t j) { return unit.scores[j]; };
  const auto cross = [&](size_t j) { return unit.cross[j]; };
  const auto self = [&](size_t j) { return unit.self[j]; };
  const auto any = [](size_t) { return true; };
  std::vector<bool> keep;
  for (const double s : unit.scores) keep.push_back(s == kProtected);
  const int64_t part = policy.fraction_ppm * budget / 1'000'000;
  switch (policy.select) {
    case Select::kTopK:
    case Select::kBlock:
      TakeBest(budget, any, score, &keep);
      break;
    case Select::kTopKRandom: {
      TakeBest(budget - part, any, score, &keep);
      const auto key = [&](size_t j) { return DrawnKey(policy, layer, head, unit.positions[j], unit.scores[j]); };
      TakeBest(part, any, key, &keep);
      break;
    }
    case Select::kTwoStage: {
      const double r = policy.windowed() && policy.accumulate == Accumulate::kSum ? rows : 1;
      TakeBest(part, any, score, &keep);
      TakeBest(
          budget - part, any, [&](size_t j) { return (unit.scores[j] + 1e-4 * r) * unit.projected[j]; }, &keep);
      break;
    }
    case Select::kTwoLists: {
      const auto stays = [&] { return std::count(keep.begin(), keep.end(), true); };
      const int64_t wanted = stays() + budget;
      TakeBest(
          policy.share_ppm * budget / 1'000'000, [&](size_t j) { return cross(j) > 0; }, cross, &keep);
      TakeBest(
          wanted - stays(), [&](size_t j) { return self(j) > 0; }, self, &keep);
      TakeBest(wanted - stays(), any, cross, &keep);
      break;
    }
  }
  return keep;
}

std::vector<std::vector<bool>> SelectByBlocks(const Policy& policy, const std::vector<Emitted>& units, int64_t total) {
  const size_t heads = units.size();
  std::vector<int64_t> counts = CandidateCounts(units);
  std::vector<int64_t> floors = Floors(policy, counts, total);
  std::vector<int64_t> gone(heads, 0);
  std::vector<std::vector<size_t>> lowest;
  int64_t over = -total;
  for (size_t u = 0; u < heads; ++u) {
    lowest.push_back(LowestFirst(units[u]));
    over += counts[u];
  }
  // Frees the cheapest block of all, if there is one.
  const auto free_block = [&] {
    int cheapest = -1;
    int64_t cheapest_gone = 0;
    double cheapest_price = 0;
    for (size_t u = 0; u < heads; ++u) {
      const auto partial = static_cast<int64_t>((units[u].scores.size() - 1) % 16) + 1;
      const int64_t next = gone[u] == 0 ? partial : gone[u] + 16;
      if (next > counts[u] || counts[u] - next < floors[u]) continue;
      const double price = units[u].scores[lowest[u][next - 1]];
      if (cheapest >= 0 && price > cheapest_price) continue;
      cheapest = static_cast<int>(u);  // of equal prices the higher head's
      cheapest_gone = next;
      cheapest_price = price;
    }
    if (cheapest < 0) return false;
    over -= cheapest_gone - gone[cheapest];
    gone[cheapest] = cheapest_gone;
    return true;
  };
  while (over > 0 && free_block()) {
  }
  floors.assign(heads, 0);
  while (over > 0 && free_block()) {
  }
  for (; over > 0; --over) {  // single tokens
    int cheapest = -1;
    for (size_t u = 0; u < heads; ++u) {
      if (gone[u] == counts[u]) continue;
      if (cheapest >= 0 &&
          units[u].scores[lowest[u][gone[u]]] > units[cheapest].scores[lowest[cheapest][gone[cheapest]]])
        continue;
      cheapest = static_cast<int>(u);
    }
    ++gone[cheapest];
  }
  std::vector<std::vector<bool>> keep;
  for (size_t u = 0; u < heads; ++u) {
    keep.emplace_back(units[u].scores.size(), true);
    for (int64_t i = 0; i < gone[u]; ++i) keep[u][lowest[u][i]] = false;
  }
  return keep;
}

}  // namespace kvsteward::reference
