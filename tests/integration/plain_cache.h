// A KvCache in the test's own memory, whose rows lie one behind the other. Not thread-safe.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "client/worker/kv_cache.h"
#include "client/worker/layers.h"
#include "client/worker/model.h"

namespace kvsteward::worker {

class PlainCache : public KvCache {
 public:
  // Room for `tokens` tokens, a multiple of 16, in every unit.
  PlainCache(const ModelConfig& config, uint32_t tokens)
      : head_dim_(config.head_dim),
        row_blocks_(tokens / kBlockTokens),
        floats_(static_cast<size_t>(config.units()) * tokens * 2 * config.head_dim),
        blocks_(static_cast<size_t>(config.units()) * row_blocks_),
        residents_(config.units(), 0) {
    std::iota(blocks_.begin(), blocks_.end(), 0u);
  }

  uint32_t Residents(uint32_t unit) const override { return residents_[unit]; }
  std::span<const uint32_t> Row(uint32_t unit) const override {
    return std::span(blocks_).subspan(static_cast<size_t>(unit) * row_blocks_, row_blocks_);
  }
  float* Block(uint32_t block) const override {
    return block < blocks_.size() ? const_cast<float*>(floats_.data()) + block * BlockFloats() : nullptr;
  }

  void Wrote(uint32_t tokens) {
    for (uint32_t& residents : residents_) residents += tokens;
  }
  void Fill(float value) { std::ranges::fill(floats_, value); }
  // Keys and values of a unit's whole room.
  std::vector<float> Contents(uint32_t unit) const {
    const float* first = Block(Row(unit)[0]);
    return {first, first + row_blocks_ * BlockFloats()};
  }
  // Takes `count` residents from `slot` on out of a unit; later ones move up.
  void Drop(uint32_t unit, uint32_t slot, uint32_t count) {
    for (uint32_t to = slot; to + count < residents_[unit]; ++to) Move(unit, to + count, to);
    residents_[unit] -= count;
  }

 private:
  void Move(uint32_t unit, uint32_t from, uint32_t to) {
    for (const uint32_t part : {0u, kBlockTokens}) {  // keys, values
      const float* source = Block(Row(unit)[from / kBlockTokens]) + (part + from % kBlockTokens) * head_dim_;
      std::copy_n(source, head_dim_, Block(Row(unit)[to / kBlockTokens]) + (part + to % kBlockTokens) * head_dim_);
    }
  }

  size_t BlockFloats() const { return size_t{2} * kBlockTokens * head_dim_; }

  size_t head_dim_;
  size_t row_blocks_;
  std::vector<float> floats_;
  std::vector<uint32_t> blocks_;  // [units][row_blocks_]
  std::vector<uint32_t> residents_;
};

}  // namespace kvsteward::worker
