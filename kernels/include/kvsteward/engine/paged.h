// Views of a sequence's paged KV cache as the engine reads it. Nothing here owns memory; the caller keeps everything
// alive and unchanged by others for the length of a call (the step rule).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/run.h"
#include "kvsteward/engine/tensor.h"

namespace kvsteward::engine {

// A lease's blocks. Block b holds K [16, d] at `data + b * block_bytes` and V [16, d] right behind. The two side arrays
// are indexed [b * 16 + slot]; they are private to the sidecar and move with the tokens.
struct PoolView {
  std::byte* data = nullptr;  // worker-visible: bytes may change at any time; results may then be wrong, never unsafe
  size_t block_bytes = 0;
  int32_t* positions = nullptr;  // absolute position of a token that survived an eviction
  float* norms = nullptr;        // ||V||_2^2 of a token once some policy has read it

  std::byte* keys(uint32_t block) const { return data + static_cast<size_t>(block) * block_bytes; }
  std::byte* values(uint32_t block) const { return keys(block) + block_bytes / 2; }
};

// One unit: the residents of one (layer, kv head), in ascending position.
// Invariants: 0 <= stored <= length; 0 <= normed <= length; the runs of `row` hold at least `length` tokens; token
// j < stored has its position in PoolView::positions, token j >= stored has position appended_position + (j - stored).
struct UnitView {
  std::span<const Run> row;
  int32_t length = 0;
  int32_t stored = 0;
  int32_t appended_position = 0;
  int32_t normed = 0;  // the first `normed` tokens have their value norm in PoolView::norms
};

// The window: the last query rows, after RoPE, as [layers, query_heads, rows, head_dim] in C order.
struct WindowView {
  const std::byte* queries = nullptr;
  DType dtype = DType::kF32;
  int32_t rows = 0;
  std::span<const int32_t> positions;  // [rows], ascending absolute positions
};

struct SequenceView {
  Geometry geometry;
  PoolView pool;
  std::span<const UnitView> units;  // [layers * kv_heads], layer-major
  WindowView window;
  int64_t seen = 0;                         // tokens seen: the last position + 1, evicted ones included
  const std::atomic<bool>* stop = nullptr;  // set by another thread: scoring ends early with CANCELLED

  bool stopped() const { return stop != nullptr && stop->load(std::memory_order_relaxed); }
};

}  // namespace kvsteward::engine
