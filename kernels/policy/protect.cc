#include "kernels/policy/protect.h"

#include <algorithm>

#include "kernels/policy/row.h"

namespace kvsteward::engine {

CandidateRange Candidates(const UnitView& unit, const PoolView& pool, const Protect& protect, int64_t k) {
  const int64_t recent = protect.recent_kind == Protect::Recent::kTokens ? protect.recent : k - protect.recent;
  const auto end = static_cast<int32_t>(std::max<int64_t>(0, unit.length - std::max<int64_t>(0, recent)));

  // Positions are distinct and start at 0: at most `sinks` tokens can be sinks.
  int32_t begin = 0;
  RowCursor cursor(unit.row);
  const int32_t stored_end = std::min(end, unit.stored);
  while (begin < stored_end && begin < protect.sinks) {
    const int32_t slot = begin % kBlockTokens;
    if (pool.positions[static_cast<size_t>(cursor.block()) * kBlockTokens + slot] >= protect.sinks) break;
    ++begin;
    if (slot == kBlockTokens - 1) cursor.Next();
  }
  if (begin == stored_end && begin < end) {  // appended tokens: consecutive positions
    const int64_t more = static_cast<int64_t>(protect.sinks) - unit.appended_position;
    begin += static_cast<int32_t>(std::clamp<int64_t>(more, 0, end - begin));
  }
  return {begin, end};
}

}  // namespace kvsteward::engine
