// Views of a sequence's paged KV cache as the engine reads it. Nothing here owns memory; the caller keeps everything
// alive and unchanged by others for the length of a call (the step rule).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/run.h"
#include "kvsteward/engine/policy.h"
#include "kvsteward/engine/tensor.h"

namespace kvsteward::engine {

// A lease's blocks. Block b holds K [16, d] at `data + b * block_bytes` and V [16, d] right behind. The side arrays are
// indexed [b * 16 + slot]; they are private to the sidecar and move with the tokens.
struct PoolView {
  std::byte* data = nullptr;  // worker-visible: bytes may change at any time; results may then be wrong, never unsafe
  size_t block_bytes = 0;
  int32_t* positions = nullptr;  // absolute position of a token that survived an eviction
  float* norms = nullptr;        // value norm of a token once some policy has read it: SequenceView says which
  float* running = nullptr;      // running score of a token, for policies that accumulate so

  std::byte* keys(uint32_t block) const { return data + static_cast<size_t>(block) * block_bytes; }
  std::byte* values(uint32_t block) const { return keys(block) + block_bytes / 2; }
};

// One unit: the residents of one (layer, kv head), in ascending position.
// Invariants: 0 <= stored <= length; 0 <= normed, scored <= length; the runs of `row` hold at least `length` tokens;
// token j < stored has its position in PoolView::positions, token j >= stored has position appended_position + (j -
// stored).
struct UnitView {
  std::span<const Run> row;
  int32_t length = 0;
  int32_t stored = 0;
  int32_t appended_position = 0;
  int32_t normed = 0;  // the first `normed` tokens have their value norm in PoolView::norms
  int32_t scored = 0;  // the first `scored` tokens have their running score in PoolView::running; others' is 0
};

// The window: the last query rows, after RoPE, as [layers, query_heads, rows, head_dim] in C order.
struct WindowView {
  const std::byte* queries = nullptr;
  DType dtype = DType::kF32;
  int32_t rows = 0;
  std::span<const int32_t> positions;  // [rows], ascending absolute positions
};

// What a caller supplies beside the window, each empty unless given. Bytes may change at any time, like the pool's.
struct InputView {
  std::span<const uint8_t> classes;         // [seen], by position
  std::span<const float> scores;            // all units' residents one after the other, >= 0
  std::span<const float> projected_norms;   // likewise: ||W_O v||_1, the mean over the group
  std::span<const float> query_mean;        // [layers, query_heads, head_dim], after RoPE, of the queries to come
  std::span<const float> query_covariance;  // [layers, query_heads, head_dim, head_dim]
};

struct SequenceView {
  Geometry geometry;
  PoolView pool;
  std::span<const UnitView> units;  // [layers * kv_heads], layer-major
  WindowView window;
  InputView inputs;
  int64_t seen = 0;                         // tokens seen: the last position + 1, evicted ones included
  int64_t observed = 0;                     // rows of positions below it are in the running scores
  Norm normed_kind = Norm::kL2Squared;      // what the units' `normed` counts: kL2Squared or kL1
  const std::atomic<bool>* stop = nullptr;  // set by another thread: scoring ends early with CANCELLED

  bool stopped() const { return stop != nullptr && stop->load(std::memory_order_relaxed); }
};

}  // namespace kvsteward::engine
