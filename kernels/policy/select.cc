#include "kernels/policy/select.h"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "kernels/policy/allot.h"
#include "kernels/policy/radix.h"

namespace kvsteward::engine {
namespace {

// The candidates of a unit: protected tokens are a head and a tail of it.
std::span<const float> CandidatesOf(std::span<const float> unit) {
  size_t begin = 0;
  size_t end = unit.size();
  while (begin < end && unit[begin] < 0) ++begin;
  while (end > begin && unit[end - 1] < 0) --end;
  return unit.subspan(begin, end - begin);
}

// Sets the bits of the protected tokens and of the `share` best candidates, ties to the lower position.
void MarkBest(std::span<const float> unit, std::span<const float> candidates, int64_t share, std::span<uint64_t> mask) {
  const int64_t no_floor = 0;
  const Cut cut = FindCut(std::span(&candidates, 1), std::span(&no_floor, 1), share);
  int64_t ties = share - cut.above[0];
  for (size_t j = 0; j < unit.size(); ++j) {
    const uint32_t key = KeyOf(unit[j]);
    bool keep = unit[j] < 0 || key > cut.key;
    if (!keep && key == cut.key && ties > 0) {
      keep = true;
      --ties;
    }
    mask[j / 64] |= static_cast<uint64_t>(keep) << (j % 64);
  }
}

}  // namespace

void SelectLayer(const LayerScores& scores, const Policy& policy, int64_t layer_total, std::span<int32_t> kept,
                 std::span<const std::span<uint64_t>> masks) {
  const size_t heads = kept.size();
  std::vector<std::span<const float>> units(heads);
  std::vector<std::span<const float>> candidates(heads);
  int64_t total = layer_total;  // of candidates
  int64_t available = 0;
  for (size_t h = 0; h < heads; ++h) {
    units[h] = std::span(scores.scores)
                   .subspan(static_cast<size_t>(scores.offsets[h]),
                            static_cast<size_t>(scores.offsets[h + 1] - scores.offsets[h]));
    candidates[h] = CandidatesOf(units[h]);
    total -= static_cast<int64_t>(units[h].size() - candidates[h].size());
    available += static_cast<int64_t>(candidates[h].size());
  }
  const std::vector<int64_t> shares = HeadShares(policy.head, candidates, std::min(total, available));
  for (size_t h = 0; h < heads; ++h) {
    MarkBest(units[h], candidates[h], shares[h], masks[h]);
    kept[h] = static_cast<int32_t>(static_cast<int64_t>(units[h].size() - candidates[h].size()) + shares[h]);
  }
}

}  // namespace kvsteward::engine
