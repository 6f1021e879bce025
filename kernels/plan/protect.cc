#include "kernels/plan/protect.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <functional>
#include <iterator>

#include "kernels/plan/radix.h"
#include "kernels/plan/row.h"

namespace kvsteward::engine {
namespace {

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

  // The best `most`, ascending by position: first the bits of the attention, then what makes lower positions greater.
  std::vector<float> worth(attention.size(), -1.0f);
  for (auto j = static_cast<size_t>(candidates->begin); j < static_cast<size_t>(candidates->end); ++j) {
    if (attention[j] > 0) worth[j] = attention[j];
  }
  for (const int32_t hole : candidates->holes) worth[static_cast<size_t>(hole)] = -1.0f;
  most = std::clamp<int64_t>(most, 0, std::ranges::count_if(worth, [](float a) { return a > 0; }));
  if (most == 0) return;
  Cut cut = FindCut(worth, most);
  std::vector<uint64_t> best;
  best.reserve(static_cast<size_t>(most));
  for (size_t j = 0; j < worth.size(); ++j) {
    const int32_t key = KeyOf(worth[j]);
    if (key < cut.key || (key == cut.key && cut.ties-- <= 0)) continue;
    best.push_back(uint64_t{static_cast<uint32_t>(key)} << 32 | (UINT32_MAX - j));
  }

  std::vector<uint64_t> descending = best;
  std::ranges::sort(descending, std::greater());
  auto end = descending.begin();
  for (double held = 0; end != descending.end(); ++end) {
    held += std::bit_cast<float>(static_cast<uint32_t>(*end >> 32));
    if (held > bound) break;
  }
  if (end == descending.begin()) return;
  const uint64_t last = *std::prev(end);
  const auto holes = static_cast<std::ptrdiff_t>(candidates->holes.size());
  for (const uint64_t each : best) {
    if (each >= last) candidates->holes.push_back(static_cast<int32_t>(UINT32_MAX - static_cast<uint32_t>(each)));
  }
  std::inplace_merge(candidates->holes.begin(), candidates->holes.begin() + holes, candidates->holes.end());
}

}  // namespace kvsteward::engine
