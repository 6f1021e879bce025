// A run: neighbouring blocks, the unit in which blocks are allocated, freed and described. A plain value.
#pragma once

#include <cstdint>

namespace kvsteward {

struct Run {
  uint32_t first = 0;  // index of the first block in its lease's block space
  uint32_t count = 0;  // blocks

  uint32_t end() const { return first + count; }
  bool operator==(const Run&) const = default;
};

constexpr uint32_t BlocksFor(uint64_t tokens, uint32_t block_tokens = 16) {
  return static_cast<uint32_t>((tokens + block_tokens - 1) / block_tokens);
}

}  // namespace kvsteward
