// What one eviction or Observe asks of the engine beside the policy: budget, the window's queries and what else the
// caller supplies. Immutable once made; core hands it through without looking into it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "kvsteward/engine/policy.h"
#include "kvsteward/engine/tensor.h"
#include "service/core/types.h"

namespace kvsteward::core {

struct EvictSpec {
  engine::Budget budget;           // of an Observe: amount 0 if none was given
  std::optional<WordValue> ready;  // nothing that the item names is read before; slot below KVS_WORDS

  engine::DType window_dtype = engine::DType::kF32;
  int32_t window_rows = 0;                // 0: no window was given
  std::vector<int32_t> window_positions;  // [window_rows] ascending; empty: the last rows of the written tokens
  bool window_inline = false;
  std::vector<std::byte> inline_queries;  // [layers, query_heads, rows, head_dim], if inline
  uint32_t window_slot = 0;               // else: where it lies in the statistics region

  // Where what a stage reads lies: inline, or in the lease's inputs area.
  struct Input {
    bool given = false;
    bool is_inline = false;
    std::vector<std::byte> bytes;
    uint64_t offset = 0;
  };
  Input classes;           // u8 [written_tokens]
  Input scores;            // f32, all units' residents one after the other
  Input projected_norms;   // likewise
  Input query_mean;        // f32 [layers, query_heads, head_dim]
  Input query_covariance;  // f32 [layers, query_heads, head_dim, head_dim]
};

}  // namespace kvsteward::core
