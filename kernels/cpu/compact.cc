#include "kernels/cpu/compact.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/policy/row.h"

namespace kvsteward::engine::cpu {
namespace {

// Appends stretches of tokens to the blocks of a row.
class Appender {
 public:
  Appender(const Geometry& geometry, const PoolView& pool, std::span<const Run> to)
      : pool_(pool), token_bytes_(geometry.token_bytes()), cursor_(to) {}

  // Tokens [j, j + count) of the unit, slots [j % 16, j % 16 + count) of `block`.
  void Append(const UnitView& unit, uint32_t block, int32_t j, int32_t count) {
    for (int32_t done = 0; done < count;) {
      const int32_t tokens = std::min(count - done, kBlockTokens - slot_);
      Copy(unit, block, j + done, tokens);
      done += tokens;
      slot_ += tokens;
      if (slot_ == kBlockTokens) {
        cursor_.Next();
        slot_ = 0;
      }
    }
  }

 private:
  void Copy(const UnitView& unit, uint32_t block, int32_t j, int32_t tokens) {
    const auto from = static_cast<size_t>(j % kBlockTokens);
    const auto to = static_cast<size_t>(slot_);
    const size_t bytes = static_cast<size_t>(tokens) * token_bytes_;
    std::memcpy(pool_.keys(cursor_.block()) + to * token_bytes_, pool_.keys(block) + from * token_bytes_, bytes);
    std::memcpy(pool_.values(cursor_.block()) + to * token_bytes_, pool_.values(block) + from * token_bytes_, bytes);
    const size_t side_from = static_cast<size_t>(block) * kBlockTokens + from;
    const size_t side_to = static_cast<size_t>(cursor_.block()) * kBlockTokens + to;
    for (int32_t i = 0; i < tokens; ++i) {
      const auto at = static_cast<size_t>(i);
      pool_.positions[side_to + at] =
          j + i < unit.stored ? pool_.positions[side_from + at] : unit.appended_position + (j + i - unit.stored);
      if (j + i < unit.normed) pool_.norms[side_to + at] = pool_.norms[side_from + at];
      if (j + i < unit.scored) pool_.running[side_to + at] = pool_.running[side_from + at];
    }
  }

  const PoolView& pool_;
  const size_t token_bytes_;
  RowCursor cursor_;
  int32_t slot_ = 0;
};

}  // namespace

void CompactUnit(const Geometry& geometry, const PoolView& pool, const UnitView& unit, std::span<const uint64_t> mask,
                 std::span<const Run> to) {
  Appender appender(geometry, pool, to);
  RowCursor cursor(unit.row);
  for (int32_t first = 0; first < unit.length; first += kBlockTokens, cursor.Next()) {
    uint32_t bits = static_cast<uint32_t>(mask[static_cast<size_t>(first / 64)] >> (first % 64)) & 0xffffu;
    while (bits != 0) {  // one stretch of neighbours a step
      const int begin = std::countr_zero(bits);
      const int count = std::countr_one(bits >> begin);
      appender.Append(unit, cursor.block(), first + begin, count);
      bits &= ~(((1u << count) - 1) << begin);
    }
  }
}

}  // namespace kvsteward::engine::cpu
