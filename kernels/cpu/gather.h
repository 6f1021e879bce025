// Keys and values of scattered tokens, copied to blocks in order, with the machine's widest vectors. Stateless.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/plan/row.h"
#include "kvsteward/engine/paged.h"

namespace kvsteward::engine::cpu {

// A resident that stays, and the block it lies in.
struct Kept {
  int32_t token;
  uint32_t block;

  size_t slot() const { return static_cast<size_t>(token % kBlockTokens); }
  size_t index() const { return static_cast<size_t>(block) * kBlockTokens + slot(); }  // into side arrays
};

// Calls body(first, count, block) for the blocks of `to` in order: `count` tokens from `first` on go there.
// REQUIRES: `to` holds so many tokens.
template <class Body>
void ForEachBlock(std::span<const Run> to, size_t tokens, const Body& body) {
  RowCursor cursor(to);
  for (size_t first = 0; first < tokens; first += kBlockTokens, cursor.Next()) {
    body(first, std::min<size_t>(kBlockTokens, tokens - first), cursor.block());
  }
}

// REQUIRES: `to` holds as many tokens and shares no block with them.
void GatherTokens(const PoolView& pool, size_t token_bytes, std::span<const Kept> kept, std::span<const Run> to);

}  // namespace kvsteward::engine::cpu
