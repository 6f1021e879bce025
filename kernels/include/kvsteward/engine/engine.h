// The eviction engine: scores the residents of a sequence, selects what stays, and compacts. One Engine drives one
// device; it is thread-compatible: one caller at a time (the device's owner thread). planner.h runs the pipeline on
// top.
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

  // What else the later stages and the caller read, laid out as `scores`; empty unless the policy has it so.
  std::vector<float> attention;  // reads_attention(): of every resident, mean over rows and query heads
  std::vector<float> cross;      // `two_lists`: the part of the score from rows of another class,
  std::vector<float> self;       // and from rows of the same class; score = cross + self
  std::vector<float> projected;  // `two_stage`: the caller's projected norms
  std::vector<float> running;    // running(): of every resident, before the refinements
  std::vector<double> distance;  // [kv_heads], `split`: of the unit's summary from the layer's mean
};

// What SelectLayer is told and what it fills for one layer.
struct LayerChoice {
  int32_t layer = 0;
  int64_t total = 0;                           // tokens that stay in the layer, protected ones included
  std::span<const int64_t> shares;             // [kv_heads] candidates that stay, if stage 6 has decided (`global`)
  std::span<int32_t> kept;                     // [kv_heads] residents that stay
  std::span<const std::span<uint64_t>> masks;  // [kv_heads], zeroed
  bool unsplit = false;                        // `split` found room for no full head
};

// One unit's tokens that stay, and where they go.
struct UnitCompaction {
  UnitView unit;
  std::span<const uint64_t> mask;  // bit j % 64 of word j / 64: resident j stays; others are 0
  std::span<const Run> to;         // holds as many tokens as bits are set
};

class Engine {
 public:
  virtual ~Engine() = default;
  virtual std::string_view name() const = 0;  // "host", "cuda"

  // Stages 1-5 of one layer for the mean budget `k`. If the policy reads norms, pool.norms is filled for every resident
  // of the layer. INVALID_ARGUMENT naming tensor, layer, head and index on NaN or infinity in what it reads or in a
  // score. CANCELLED if the sequence's `stop` ended the scoring early; then `out` means nothing.
  // REQUIRES: EvictionPlanner::Start accepts sequence and policy.
  virtual absl::Status ScoreLayer(const SequenceView& sequence, const Policy& policy, int64_t k, int32_t layer,
                                  LayerScores* out) = 0;

  // Stages 1-3 of one layer with the running scores: what they become with the window's rows from `observed` on, of
  // every resident, units one after the other. Changes nothing. Errors as ScoreLayer. REQUIRES: policy.running().
  virtual absl::Status AccumulateLayer(const SequenceView& sequence, const Policy& policy, int64_t k, int32_t layer,
                                       std::vector<float>* running) = 0;

  // Writes one layer's running scores, as AccumulateLayer gave them, to pool.running.
  virtual void StoreRunning(const SequenceView& sequence, int32_t layer, std::span<const float> running) = 0;

  // Stages 7 and 8 of one layer: exactly min(choice.total, residents) tokens stay, with `block` at most 15 fewer.
  // REQUIRES: choice.total >= the layer's protected tokens.
  virtual void SelectLayer(const SequenceView& sequence, const Policy& policy, const LayerScores& scores,
                           LayerChoice& choice) = 0;

  // Copies each unit's tokens that stay, with their positions and (for the first `normed` and `scored`) norms and
  // running scores, in order to its blocks `to`. REQUIRES: no `to` shares a block with another or with a unit's row.
  virtual void CompactUnits(const Geometry& geometry, const PoolView& pool, std::span<const UnitCompaction> units) = 0;
};

// The host engine: SIMD by Highway, a fixed pool of `threads` (>= 1) threads that includes the caller's.
std::unique_ptr<Engine> NewHostEngine(int threads);

}  // namespace kvsteward::engine
