// Where a decoder finds and puts keys and values. The decoder itself keeps none.
#pragma once

#include <cstdint>

namespace kvsteward::worker {

// For each unit (layer * kv_heads + kv_head) a row of blocks of 16 tokens: keys after RoPE [16, head_dim], then values
// [16, head_dim], float32. Units may hold different numbers of tokens.
class KvCache {
 public:
  virtual ~KvCache() = default;

  virtual uint32_t Residents(uint32_t unit) const = 0;
  // The unit's block number `index`, counted from its first resident. REQUIRES: within the room of the cache.
  virtual float* Block(uint32_t unit, uint32_t index) = 0;
};

}  // namespace kvsteward::worker
