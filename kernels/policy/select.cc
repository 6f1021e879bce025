#include "kernels/policy/select.h"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "kernels/policy/allot.h"
#include "kernels/policy/radix.h"

namespace kvsteward::engine {
namespace {

// The candidates of a unit are a range of it: protected tokens are its head and its tail.
struct Unit {
  std::span<const float> scores;
  size_t begin = 0;
  size_t end = 0;

  std::span<const float> candidates() const { return scores.subspan(begin, end - begin); }
  int64_t protected_tokens() const { return static_cast<int64_t>(scores.size() - (end - begin)); }
};

Unit UnitOf(std::span<const float> scores) {
  Unit unit{.scores = scores, .begin = 0, .end = scores.size()};
  while (unit.begin < unit.end && scores[unit.begin] < 0) ++unit.begin;
  while (unit.end > unit.begin && scores[unit.end - 1] < 0) --unit.end;
  return unit;
}

// Sets the bits of the protected tokens and of the `share` best candidates, ties to the lower position. Sets exactly as
// many whatever the scores are.
void MarkBest(const Unit& unit, int64_t share, std::span<uint64_t> mask) {
  const std::span<const float> candidates = unit.candidates();
  const int64_t no_floor = 0;
  const Cut cut = FindCut(std::span(&candidates, 1), std::span(&no_floor, 1), share);
  int64_t ties = share - cut.above[0];
  const auto set = [&](size_t j, bool keep) { mask[j / 64] |= static_cast<uint64_t>(keep) << (j % 64); };
  for (size_t j = 0; j < unit.begin; ++j) set(j, true);
  for (size_t j = unit.begin; j < unit.end; ++j) {
    const uint32_t key = KeyOf(unit.scores[j]);
    const bool tied = key == cut.key && ties > 0;
    ties -= tied ? 1 : 0;
    set(j, tied || key > cut.key);
  }
  for (size_t j = unit.end; j < unit.scores.size(); ++j) set(j, true);
}

}  // namespace

void SelectLayer(const LayerScores& scores, const Policy& policy, int64_t layer_total, std::span<int32_t> kept,
                 std::span<const std::span<uint64_t>> masks) {
  const size_t heads = kept.size();
  std::vector<Unit> units;
  std::vector<std::span<const float>> candidates;
  int64_t total = layer_total;  // of candidates
  int64_t available = 0;
  for (size_t h = 0; h < heads; ++h) {
    const auto offset = static_cast<size_t>(scores.offsets[h]);
    units.push_back(
        UnitOf(std::span(scores.scores).subspan(offset, static_cast<size_t>(scores.offsets[h + 1]) - offset)));
    candidates.push_back(units[h].candidates());
    total -= units[h].protected_tokens();
    available += static_cast<int64_t>(candidates[h].size());
  }
  const std::vector<int64_t> shares = HeadShares(policy.head, candidates, std::clamp<int64_t>(total, 0, available));
  for (size_t h = 0; h < heads; ++h) {
    MarkBest(units[h], shares[h], masks[h]);
    kept[h] = static_cast<int32_t>(units[h].protected_tokens() + shares[h]);
  }
}

}  // namespace kvsteward::engine
