// An engine that works layer by layer with scores in host memory: what EvictionPlanner and Observer make evictions and
// observations from. Thread-compatible, as Engine.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvsteward/engine/engine.h"
#include "kvsteward/engine/paged.h"
#include "kvsteward/engine/plan.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {

// What SelectLayer is told and what it fills for one layer.
struct LayerChoice {
  int32_t layer = 0;
  int64_t total = 0;                           // tokens that stay in the layer, protected ones included
  std::span<const int64_t> shares;             // [kv_heads] candidates that stay, if stage 6 has decided (`global`)
  std::span<int32_t> kept;                     // [kv_heads] residents that stay
  std::span<const std::span<uint64_t>> masks;  // [kv_heads], zeroed
  bool unsplit = false;                        // `split` found room for no full head
};

class LayerEngine : public Engine {
 public:
  absl::StatusOr<std::unique_ptr<Eviction>> StartEviction(const SequenceView& sequence, const Policy& policy,
                                                          const Budget& budget, PlanWants wants) override;
  absl::StatusOr<std::unique_ptr<Observation>> StartObservation(const SequenceView& sequence, const Policy& policy,
                                                                const Budget& budget) override;

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
};

}  // namespace kvsteward::engine
