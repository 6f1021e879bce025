// What one eviction decided. Plain data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kvsteward/engine/policy.h"
#include "kvsteward/engine/tensor.h"

namespace kvsteward::engine {

// In a layer's score array: the token is protected, kept always and no candidate. Real scores are >= 0.
inline constexpr float kProtected = -1.0f;

// The scores of one layer: its units' residents one after the other.
struct LayerScores {
  std::vector<float> scores;     // [sum of lengths]: refined score of a candidate, kProtected otherwise
  std::vector<int64_t> offsets;  // [kv_heads + 1] into `scores`

  // What else the later stages and the caller read, laid out as `scores`; empty unless the policy has it so.
  std::vector<float> attention;  // reads_attention(): of every resident, mean over rows and query heads
  std::vector<float> cross;      // `two_lists`: the part of the score from rows of another class,
  std::vector<float> self;       // and from rows of the same class; score = cross + self
  std::vector<float> projected;  // `two_stage`: the caller's projected norms
  std::vector<float> running;    // running(): of every resident, before the refinements
  std::vector<double> distance;  // [kv_heads], `split`: of the unit's summary from the layer's mean
};

// Bit j % 64 of word j / 64 of a unit's mask says that its resident j stays.
struct Plan {
  bool no_op = false;                  // every layer was within its budget: all stays, nothing was read
  int64_t budget_tokens = 0;           // k: tokens kept per kv head, mean over the sequence
  std::vector<int32_t> kept;           // [units] residents that stay
  std::vector<int64_t> layer_budgets;  // [layers] sums of `kept`
  std::vector<uint64_t> mask;          // all units' words; empty if masks were not wanted and the engine keeps its own
  std::vector<int64_t> mask_offsets;   // [units + 1] into `mask`, in words
  std::vector<LayerScores> scores;     // [layers] if they were wanted and the plan is not a no-op, else empty
  bool on_host = true;                 // the host made it, whoever's memory the sequence is in
  int32_t unsplit_layers = 0;          // layers in which `split` found room for no full head
  std::shared_ptr<const void> on_device;  // the engine's own form of it, if it has one

  std::span<const uint64_t> UnitMask(int32_t unit) const {
    return std::span(mask).subspan(static_cast<size_t>(mask_offsets[unit]),
                                   static_cast<size_t>(mask_offsets[unit + 1] - mask_offsets[unit]));
  }
};

// The mean budget k of a sequence in tokens per kv head; INVALID_ARGUMENT if it is below 1 or not to be had.
absl::StatusOr<int64_t> BudgetTokens(const Budget& budget, const Geometry& geometry, int64_t seen);

}  // namespace kvsteward::engine
