// The queries of the newest tokens, as the sidecar wants them in a window slot: [layers, query_heads, rows, head_dim].
// Does not own the slot. Not thread-safe.
#pragma once

#include <cstdint>

#include "client/worker/model.h"

namespace kvsteward::worker {

class QueryWindow {
 public:
  // `slot` has room for layers * query_heads * rows * head_dim floats and outlives the window.
  QueryWindow(const ModelConfig& config, uint32_t rows, float* slot);

  uint32_t rows() const { return rows_; }
  // Appends the rows of `tokens` tokens of one layer, the oldest rows fall out. Token t's queries, [query_heads,
  // head_dim], are at queries + t * stride.
  void Push(uint32_t layer, const float* queries, uint32_t tokens, uint32_t stride);
  // Overwrites the newest row of one layer.
  void ReplaceLast(uint32_t layer, const float* queries);

 private:
  void Write(uint32_t layer, uint32_t row, const float* queries);

  uint32_t heads_;
  uint32_t head_dim_;
  uint32_t rows_;
  float* slot_;
};

}  // namespace kvsteward::worker
