#include "kernels/cpu/compact.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "kernels/policy/row.h"

namespace kvsteward::engine::cpu {
namespace {

constexpr size_t kLine = 64;   // bytes of a cache line
constexpr size_t kAhead = 12;  // kept tokens between a prefetch and the copy: each is on two pages of its own

// A resident that stays, and the block it lies in.
struct Kept {
  int32_t token;
  uint32_t block;

  size_t slot() const { return static_cast<size_t>(token % kBlockTokens); }
};

std::vector<Kept> KeptOf(const UnitView& unit, std::span<const uint64_t> mask) {
  std::vector<Kept> kept;
  RowCursor cursor(unit.row);
  for (int32_t first = 0; first < unit.length; first += kBlockTokens, cursor.Next()) {
    uint32_t bits = static_cast<uint32_t>(mask[static_cast<size_t>(first / 64)] >> (first % 64)) & 0xffffu;
    for (; bits != 0; bits &= bits - 1) kept.push_back({first + std::countr_zero(bits), cursor.block()});
  }
  return kept;
}

// Calls body(first, count, block) for the blocks of `to` in order: `count` tokens from `first` on go there.
template <class Body>
void ForEachBlock(std::span<const Run> to, size_t tokens, const Body& body) {
  RowCursor cursor(to);
  for (size_t first = 0; first < tokens; first += kBlockTokens, cursor.Next()) {
    body(first, std::min<size_t>(kBlockTokens, tokens - first), cursor.block());
  }
}

// A call of memcpy per token would cost as much as the copy.
void CopyToken(std::byte* to, const std::byte* from, size_t bytes) {
  if (bytes % kLine != 0) {
    std::memcpy(to, from, bytes);
    return;
  }
  for (size_t at = 0; at < bytes; at += kLine) std::memcpy(to + at, from + at, kLine);
}

void PrefetchToken(const std::byte* from, size_t bytes) {
  for (size_t at = 0; at < bytes; at += kLine) __builtin_prefetch(from + at);
}

void CopyKeysAndValues(const PoolView& pool, size_t token_bytes, std::span<const Kept> kept, std::span<const Run> to) {
  const auto key = [&](const Kept& token) { return pool.keys(token.block) + token.slot() * token_bytes; };
  const auto value = [&](const Kept& token) { return pool.values(token.block) + token.slot() * token_bytes; };
  ForEachBlock(to, kept.size(), [&](size_t first, size_t count, uint32_t block) {
    for (size_t i = 0; i < count; ++i) {
      if (first + i + kAhead < kept.size()) {
        PrefetchToken(key(kept[first + i + kAhead]), token_bytes);
        PrefetchToken(value(kept[first + i + kAhead]), token_bytes);
      }
      CopyToken(pool.keys(block) + i * token_bytes, key(kept[first + i]), token_bytes);
      CopyToken(pool.values(block) + i * token_bytes, value(kept[first + i]), token_bytes);
    }
  });
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

void CompactUnit(const Geometry& geometry, const PoolView& pool, const UnitCompaction& compaction) {
  const UnitView& unit = compaction.unit;
  const std::vector<Kept> kept = KeptOf(unit, compaction.mask);
  CopyKeysAndValues(pool, geometry.token_bytes(), kept, compaction.to);
  const auto in = [](const auto* side) {
    return [side](const Kept& token) { return side[static_cast<size_t>(token.block) * kBlockTokens + token.slot()]; };
  };
  FillSide(pool.positions, kept, unit.length, compaction.to, [&](const Kept& token) {
    return token.token < unit.stored ? in(pool.positions)(token) : unit.appended_position + (token.token - unit.stored);
  });
  FillSide(pool.norms, kept, unit.normed, compaction.to, in(pool.norms));
  FillSide(pool.running, kept, unit.scored, compaction.to, in(pool.running));
}

}  // namespace kvsteward::engine::cpu
