// A KvCache in the test's own memory, every unit with a row of its own. Not thread-safe.
#pragma once

#include <algorithm>
#include <cstdint>
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
        rows_(config.units(), std::vector<float>(static_cast<size_t>(tokens) * 2 * config.head_dim)),
        residents_(config.units(), 0) {}

  uint32_t Residents(uint32_t unit) const override { return residents_[unit]; }
  float* Block(uint32_t unit, uint32_t index) override {
    return &rows_[unit].at(static_cast<size_t>(index) * kBlockTokens * 2 * head_dim_);
  }

  void Wrote(uint32_t tokens) {
    for (uint32_t& residents : residents_) residents += tokens;
  }
  void Fill(float value) {
    for (std::vector<float>& row : rows_) std::fill(row.begin(), row.end(), value);
  }
  const std::vector<float>& Row(uint32_t unit) const { return rows_[unit]; }
  // Takes `count` residents from `slot` on out of a unit; later ones move up.
  void Drop(uint32_t unit, uint32_t slot, uint32_t count) {
    for (uint32_t to = slot; to + count < residents_[unit]; ++to) Move(unit, to + count, to);
    residents_[unit] -= count;
  }

 private:
  void Move(uint32_t unit, uint32_t from, uint32_t to) {
    for (const uint32_t part : {0u, kBlockTokens}) {  // keys, values
      const float* source = Block(unit, from / kBlockTokens) + (part + from % kBlockTokens) * head_dim_;
      std::copy_n(source, head_dim_, Block(unit, to / kBlockTokens) + (part + to % kBlockTokens) * head_dim_);
    }
  }

  size_t head_dim_;
  std::vector<std::vector<float>> rows_;
  std::vector<uint32_t> residents_;
};

}  // namespace kvsteward::worker
