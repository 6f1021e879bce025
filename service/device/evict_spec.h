// What one eviction asks of the engine: policy, budget and the window's queries. Immutable once made; core hands it
// through without looking into it.
#pragma once

#include <cstdint>
#include <vector>

#include "kvsteward/engine/policy.h"
#include "kvsteward/engine/tensor.h"

namespace kvsteward::core {

struct EvictSpec {
  engine::Policy policy;
  engine::Budget budget;

  engine::DType window_dtype = engine::DType::kF32;
  int32_t window_rows = 0;                // 0: no window was given
  std::vector<int32_t> window_positions;  // [window_rows] ascending; empty: the last rows of the written tokens
  bool window_inline = false;
  std::vector<std::byte> inline_queries;  // [layers, query_heads, rows, head_dim], if inline
  uint32_t window_slot = 0;               // else: where it lies in the statistics region
};

}  // namespace kvsteward::core
