#include "kernels/policy/top_k_random.h"

#include <cmath>
#include <vector>

#include "kernels/policy/philox.h"
#include "kernels/policy/radix.h"
#include "kernels/policy/rest.h"
#include "kernels/policy/row.h"

namespace kvsteward::engine {

void KeepTopKRandom(const Select& select, const PoolView& pool, const UnitView& unit, int32_t layer, int32_t head,
                    std::span<const float> scores, int64_t share, std::span<uint64_t> mask) {
  const int64_t drawn = select.fraction_ppm * share / kPpm;
  KeepAbove(scores, FindCut(scores, share - drawn), mask);
  if (drawn == 0) return;

  std::vector<Ranked> rest;
  RowCursor cursor(unit.row);
  int64_t block = 0;
  ForEachLeft(mask, unit.length, [&](int64_t j) {
    int64_t position = int64_t{unit.appended_position} + (j - unit.stored);
    if (j < unit.stored) {
      for (; block < j / kBlockTokens; ++block) cursor.Next();
      position = pool.positions[size_t{cursor.block()} * kBlockTokens + static_cast<size_t>(j % kBlockTokens)];
    }
    const uint32_t word =
        Philox4x32({static_cast<uint32_t>(layer), static_cast<uint32_t>(head), static_cast<uint32_t>(position), 0},
                   {select.seed, 0})[0];
    const double u = (word + 0.5) * 0x1p-32;
    rest.push_back({scores[static_cast<size_t>(j)] - std::log(-std::log(u)), j});
  });
  KeepBest(rest, drawn, mask);
}

}  // namespace kvsteward::engine
