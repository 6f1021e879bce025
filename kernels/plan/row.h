// Walking a unit's row: from a token's index to its block and its position. Stateless helpers and a small cursor over
// memory that the caller keeps alive; thread-compatible.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/run.h"
#include "kvsteward/engine/paged.h"

namespace kvsteward::engine {

// The pool block that holds tokens [16 * block_index, 16 * block_index + 16) of the row. Costs O(runs).
// REQUIRES: the row has more than `block_index` blocks.
inline uint32_t BlockOf(std::span<const Run> row, uint32_t block_index) {
  size_t run = 0;
  while (block_index >= row[run].count) block_index -= row[run++].count;
  return row[run].first + block_index;
}

// Walks the blocks of a row in order, O(1) a step.
class RowCursor {
 public:
  // Stands on block `block_index` of the row, or at the end.
  explicit RowCursor(std::span<const Run> row, uint32_t block_index = 0) : row_(row), offset_(block_index) { Settle(); }

  bool done() const { return run_ == row_.size(); }
  // REQUIRES: !done().
  uint32_t block() const { return row_[run_].first + offset_; }
  // REQUIRES: !done().
  void Next() {
    ++offset_;
    Settle();
  }

 private:
  // Leaves the runs that end before `offset_`, empty ones included.
  void Settle() {
    while (run_ < row_.size() && offset_ >= row_[run_].count) offset_ -= row_[run_++].count;
  }

  std::span<const Run> row_;
  size_t run_ = 0;
  uint32_t offset_;
};

// The absolute position of resident `j`. Costs O(runs) for a token that survived an eviction. REQUIRES: 0 <= j <
// length.
inline int32_t PositionOf(const UnitView& unit, const PoolView& pool, int32_t j) {
  if (j >= unit.stored) return unit.appended_position + (j - unit.stored);
  const size_t block = BlockOf(unit.row, static_cast<uint32_t>(j / kBlockTokens));
  return pool.positions[block * kBlockTokens + static_cast<size_t>(j % kBlockTokens)];
}

}  // namespace kvsteward::engine
