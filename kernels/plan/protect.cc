#include "kernels/plan/protect.h"

#include <algorithm>
#include <array>
#include <cstddef>

#include "kernels/plan/row.h"

namespace kvsteward::engine {
namespace {

// How many of the newest residents are protected, as far as there are so many.
int64_t Recent(const Protect& protect, int64_t k) {
  switch (protect.recent_kind) {
    case Protect::Recent::kTokens:
      return protect.recent;
    case Protect::Recent::kBudgetMinus:
      return std::max<int64_t>(0, k - protect.recent);
    case Protect::Recent::kBudgetOver:
      return k / std::max(1, protect.recent);
  }
  return 0;
}

// The residents of [begin, end) whose class is one of `names`. A position that `classes` does not have has no class.
std::vector<int32_t> Flagged(const UnitView& unit, const PoolView& pool, std::span<const uint8_t> classes,
                             std::span<const int32_t> names, int32_t begin, int32_t end) {
  std::array<bool, 256> named{};
  for (const int32_t name : names) named[static_cast<uint8_t>(name)] = true;
  std::vector<int32_t> flagged;
  RowCursor cursor(unit.row, static_cast<uint32_t>(begin / kBlockTokens));
  for (int32_t j = begin; j < end; ++j) {
    auto position = static_cast<size_t>(int64_t{unit.appended_position} + (j - unit.stored));
    if (j < unit.stored) {
      const int32_t slot = j % kBlockTokens;
      position = static_cast<size_t>(pool.positions[static_cast<size_t>(cursor.block()) * kBlockTokens + slot]);
      if (slot == kBlockTokens - 1) cursor.Next();
    }
    if (position < classes.size() && named[classes[position]]) flagged.push_back(j);
  }
  return flagged;
}

}  // namespace

CandidateSet Candidates(const UnitView& unit, const PoolView& pool, std::span<const uint8_t> classes,
                        const Protect& protect, int64_t k) {
  const auto end = static_cast<int32_t>(std::max<int64_t>(0, unit.length - Recent(protect, k)));

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
  CandidateSet candidates{.begin = begin, .end = end, .holes = {}};
  if (!protect.classes.empty()) candidates.holes = Flagged(unit, pool, classes, protect.classes, begin, end);
  return candidates;
}

int64_t UniformShare(int64_t k, int64_t kv_heads, int64_t protected_tokens) {
  return std::max<int64_t>(0, k * kv_heads - protected_tokens) / kv_heads;
}

void PinByMass(std::span<const float> attention, int64_t mass_ppm, int64_t most, CandidateSet* candidates) {
  double whole = 0;
  for (const float a : attention) whole += a;
  const double bound = static_cast<double>(mass_ppm) / 1e6 * whole;

  std::vector<int32_t> best;
  auto hole = candidates->holes.begin();
  for (int32_t j = candidates->begin; j < candidates->end; ++j) {
    if (hole != candidates->holes.end() && *hole == j) {
      ++hole;
    } else if (attention[static_cast<size_t>(j)] > 0) {
      best.push_back(j);
    }
  }
  const auto at = [&](int32_t j) { return attention[static_cast<size_t>(j)]; };
  const auto before = [&](int32_t a, int32_t b) { return at(a) != at(b) ? at(a) > at(b) : a < b; };
  const auto last = best.begin() + std::clamp<int64_t>(most, 0, static_cast<int64_t>(best.size()));
  std::nth_element(best.begin(), last, best.end(), before);
  std::sort(best.begin(), last, before);

  auto pinned = best.begin();
  for (double held = 0; pinned != last; ++pinned) {
    held += at(*pinned);
    if (held > bound) break;
  }
  const auto holes = static_cast<std::ptrdiff_t>(candidates->holes.size());
  candidates->holes.insert(candidates->holes.end(), best.begin(), pinned);
  std::sort(candidates->holes.begin() + holes, candidates->holes.end());
  std::inplace_merge(candidates->holes.begin(), candidates->holes.begin() + holes, candidates->holes.end());
}

}  // namespace kvsteward::engine
