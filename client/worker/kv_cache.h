// Where a sequence's keys and values lie. It owns or borrows the memory; who reads and writes there is a
// CacheAttention.
#pragma once

#include <cstdint>
#include <span>

namespace kvsteward::worker {

// For each unit (layer * kv_heads + kv_head) a row of blocks of 16 tokens: keys after RoPE [16, head_dim], then values
// [16, head_dim], float32. Units may hold different numbers of tokens.
class KvCache {
 public:
  virtual ~KvCache() = default;

  virtual uint32_t Residents(uint32_t unit) const = 0;
  // The numbers of the unit's blocks in order, from its first resident to the end of its room. Valid until the cache
  // changes.
  virtual std::span<const uint32_t> Row(uint32_t unit) const = 0;
  // Where a block lies, on the device that holds the cache: block b at Block(0) + b * block size. nullptr if it does
  // not exist.
  virtual float* Block(uint32_t block) const = 0;
};

}  // namespace kvsteward::worker
