#include "kernels/cpu/compact.h"

#include <algorithm>
#include <array>
#include <bit>
#include <iterator>
#include <vector>

#include "kernels/cpu/gather.h"
#include "kernels/plan/row.h"

namespace kvsteward::engine::cpu {
namespace {

// A word of the mask at a time: how many bits of a single block are set is too hard to predict.
std::vector<Kept> KeptOf(const UnitView& unit, std::span<const uint64_t> mask) {
  size_t count = 0;
  for (const uint64_t word : mask) count += static_cast<size_t>(std::popcount(word));
  std::vector<Kept> kept(count);
  auto next = kept.begin();
  RowCursor cursor(unit.row);
  for (int32_t first = 0; first < unit.length; first += 64) {
    std::array<uint32_t, 64 / kBlockTokens> blocks{};
    for (int32_t b = 0; b < std::ssize(blocks) && first + b * kBlockTokens < unit.length; ++b, cursor.Next()) {
      blocks[static_cast<size_t>(b)] = cursor.block();
    }
    for (uint64_t bits = mask[static_cast<size_t>(first / 64)]; bits != 0; bits &= bits - 1) {
      const int bit = std::countr_zero(bits);
      *next++ = {first + bit, blocks[static_cast<size_t>(bit / kBlockTokens)]};
    }
  }
  return kept;
}

// Writes number(token) for the kept tokens among the unit's first `residents` to a side array.
template <class T, class Number>
void FillSide(T* side, std::span<const Kept> kept, int32_t residents, std::span<const Run> to, const Number& number) {
  const auto end = std::partition_point(kept.begin(), kept.end(), [&](const Kept& k) { return k.token < residents; });
  ForEachBlock(to, static_cast<size_t>(end - kept.begin()), [&](size_t first, size_t count, uint32_t block) {
    T* const out = side + static_cast<size_t>(block) * kBlockTokens;
    for (size_t i = 0; i < count; ++i) out[i] = number(kept[first + i]);
  });
}

}  // namespace

void CompactUnit(const Geometry& geometry, const PoolView& pool, const UnitView& unit, std::span<const uint64_t> mask,
                 std::span<const Run> to) {
  const std::vector<Kept> kept = KeptOf(unit, mask);
  GatherTokens(pool, geometry.token_bytes(), kept, to);
  FillSide(pool.positions, kept, unit.length, to, [&](const Kept& k) {
    return k.token < unit.stored ? pool.positions[k.index()] : unit.appended_position + (k.token - unit.stored);
  });
  FillSide(pool.norms, kept, unit.normed, to, [&](const Kept& k) { return pool.norms[k.index()]; });
  FillSide(pool.running, kept, unit.scored, to, [&](const Kept& k) { return pool.running[k.index()]; });
}

}  // namespace kvsteward::engine::cpu
