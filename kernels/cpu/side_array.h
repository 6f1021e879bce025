// A unit's side arrays: one number per token, at its block and slot. Stateless helpers over memory that the caller
// keeps alive.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>

#include "kernels/plan/row.h"
#include "kvsteward/engine/paged.h"

namespace kvsteward::engine::cpu {

// The numbers of residents [begin, begin + out.size()). REQUIRES: `begin` is a multiple of a block's tokens.
template <class T>
void LoadSide(const T* side, const UnitView& unit, int32_t begin, std::span<T> out) {
  RowCursor cursor(unit.row, static_cast<uint32_t>(begin / kBlockTokens));
  for (size_t done = 0; done < out.size(); done += kBlockTokens, cursor.Next()) {
    const T* block = side + static_cast<size_t>(cursor.block()) * kBlockTokens;
    std::copy_n(block, std::min<size_t>(kBlockTokens, out.size() - done), &out[done]);
  }
}

// Writes the numbers of the unit's first residents.
template <class T>
void StoreSide(std::span<const T> values, const UnitView& unit, T* side) {
  RowCursor cursor(unit.row);
  for (size_t done = 0; done < values.size(); done += kBlockTokens, cursor.Next()) {
    T* block = side + static_cast<size_t>(cursor.block()) * kBlockTokens;
    std::copy_n(&values[done], std::min<size_t>(kBlockTokens, values.size() - done), block);
  }
}

// The absolute positions of all residents. `out`: [length].
inline void LoadPositions(const PoolView& pool, const UnitView& unit, std::span<int32_t> out) {
  const auto stored = static_cast<size_t>(unit.stored);
  LoadSide<int32_t>(pool.positions, unit, 0, out.first(stored));
  std::iota(out.begin() + unit.stored, out.end(), unit.appended_position);
}

}  // namespace kvsteward::engine::cpu
