// The eviction engine: scores the residents of a sequence, decides what stays, and compacts. One Engine drives one
// device; it is thread-compatible: one caller at a time (the device's owner thread). EvictionPlanner runs the pipeline
// on top.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvsteward/engine/paged.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {

// In a layer's score array: the token is protected, kept always and no candidate. Real scores are >= 0.
inline constexpr float kProtected = -1.0f;

// The scores of one layer: its units' residents one after the other.
struct LayerScores {
  std::vector<float> scores;     // [sum of lengths]: refined score of a candidate, kProtected otherwise
  std::vector<int64_t> offsets;  // [kv_heads + 1] into `scores`
};

// What one eviction decided. Bit j % 64 of word j / 64 of a unit's mask says that its resident j stays.
struct Plan {
  bool no_op = false;                  // every layer was within its budget: all stays, nothing was read
  int64_t budget_tokens = 0;           // k: tokens kept per kv head, mean over the sequence
  std::vector<int32_t> kept;           // [units] residents that stay
  std::vector<int64_t> layer_budgets;  // [layers] sums of `kept`
  std::vector<uint64_t> mask;          // all units' words
  std::vector<int64_t> mask_offsets;   // [units + 1] into `mask`, in words
  std::vector<LayerScores> scores;     // [layers] if the caller asked for them and the plan is not a no-op, else empty

  std::span<const uint64_t> UnitMask(int32_t unit) const {
    return std::span(mask).subspan(static_cast<size_t>(mask_offsets[unit]),
                                   static_cast<size_t>(mask_offsets[unit + 1] - mask_offsets[unit]));
  }
};

class Engine {
 public:
  virtual ~Engine() = default;
  virtual std::string_view name() const = 0;  // "host", "cuda"

  // Stages 1-5 of one layer for the mean budget `k`. If the policy reads values, pool.norms is filled for every
  // resident of the layer. INVALID_ARGUMENT naming tensor, layer, head and index on NaN or infinity in what it reads or
  // in a score. CANCELLED if the sequence's `stop` ended the scoring early; then `out` means nothing.
  // REQUIRES: Validate(policy) is OK and the window fits the policy.
  virtual absl::Status ScoreLayer(const SequenceView& sequence, const Policy& policy, int64_t k, int32_t layer,
                                  LayerScores* out) = 0;

  // Stages 7-8 of one layer: exactly min(layer_total, residents) tokens stay. Fills `kept` [kv_heads] and sets bits in
  // the zeroed `masks` [kv_heads]. REQUIRES: layer_total >= the layer's protected tokens.
  virtual void SelectLayer(const LayerScores& scores, const Policy& policy, int64_t layer_total,
                           std::span<int32_t> kept, std::span<const std::span<uint64_t>> masks) = 0;

  // Copies the tokens of `mask`, with their positions and (for the first `normed`) norms, in order to the blocks of
  // `to`. REQUIRES: `to` shares no block with the unit's row and holds the set bits of `mask`.
  virtual void CompactUnit(const Geometry& geometry, const PoolView& pool, const UnitView& unit,
                           std::span<const uint64_t> mask, std::span<const Run> to) = 0;
};

// The host engine: SIMD by Highway, a fixed pool of `threads` (>= 1) threads that includes the caller's.
std::unique_ptr<Engine> NewHostEngine(int threads);

// The mean budget k of a sequence in tokens per kv head; INVALID_ARGUMENT if it is below 1 or not to be had.
absl::StatusOr<int64_t> BudgetTokens(const Budget& budget, const Geometry& geometry, int64_t seen);

// One eviction's decision, a layer per step, so that a device can be shared fairly between sequences. Nothing of the
// sequence changes but the cached norms. `sequence` must stay valid until the planner is gone.
class EvictionPlanner {
 public:
  // Validates policy, budget, window and the protected total against the sequence. Reads no tensor.
  static absl::StatusOr<EvictionPlanner> Start(Engine& engine, const SequenceView& sequence, const Policy& policy,
                                               const Budget& budget, bool keep_scores);

  bool finished() const { return next_layer_ >= layers_; }
  // Scores the next layer, and selects what can be selected. REQUIRES: !finished().
  absl::Status Step();
  // REQUIRES: finished().
  Plan TakePlan();

  // Seconds spent in scoring, and in budgets and selection.
  double score_seconds() const { return score_seconds_; }
  double select_seconds() const { return select_seconds_; }

 private:
  EvictionPlanner(Engine& engine, const SequenceView& sequence, const Policy& policy, bool keep_scores);

  Engine* engine_;
  SequenceView sequence_;
  Policy policy_;
  bool keep_scores_;
  int32_t layers_ = 0;
  int32_t next_layer_ = 0;
  LayerScores scratch_;
  Plan plan_;
  double score_seconds_ = 0;
  double select_seconds_ = 0;
};

}  // namespace kvsteward::engine
