// The eviction engine: decides what of a sequence stays, and compacts. One Engine drives one device; it is
// thread-compatible: one caller at a time (the device's owner thread). What it makes must go before it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvsteward/engine/paged.h"
#include "kvsteward/engine/plan.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {

// What a caller wants to read of a plan. It costs what it takes to bring it to the host.
struct PlanWants {
  bool masks = true;
  bool scores = false;
};

// One eviction's decision in steps of bounded length, so that a device can be shared fairly between sequences. Nothing
// of the sequence changes but the cached norms.
class Eviction {
 public:
  virtual ~Eviction() = default;

  virtual bool finished() const = 0;
  // The next step. INVALID_ARGUMENT naming tensor, layer, head and index on NaN or infinity in what it reads or in a
  // score; CANCELLED if the sequence's `stop` ended it early. After an error there is no plan. REQUIRES: !finished().
  virtual absl::Status Step() = 0;
  // Stores the running scores that the plan was made from; nothing for other policies and no-ops. REQUIRES: finished().
  virtual absl::Status CommitRunning() = 0;
  // REQUIRES: finished(), called once.
  virtual Plan TakePlan() = 0;

  // Seconds spent in scoring, and in budgets and selection.
  virtual double score_seconds() const = 0;
  virtual double select_seconds() const = 0;
};

// Rows of queries into running scores (stages 1-3), in steps; nothing changes until all are done and the caller says
// Commit.
class Observation {
 public:
  virtual ~Observation() = default;

  virtual bool finished() const = 0;
  // As Eviction::Step.
  virtual absl::Status Step() = 0;
  // Stores the running scores of all layers. REQUIRES: finished().
  virtual absl::Status Commit() = 0;
};

// Where the tokens of a unit that stay go.
struct UnitMove {
  int32_t unit = 0;
  std::span<const Run> to;  // holds as many tokens as stay
};

// The sequence's table (kvsteward/shm.h), for an engine that writes rows itself.
struct TableView {
  std::byte* table = nullptr;  // null: only the caller can
  uint32_t row_capacity = 0;   // blocks
  int32_t base_tokens = 0;     // tokens the sequence had seen when the plan was made
};

// Who writes the rows of compacted units.
enum class Publishing { kByCaller, kDone };

class Engine {
 public:
  virtual ~Engine() = default;
  virtual std::string_view name() const = 0;  // "host", "cuda"

  // Validates policy, budget, window, inputs and the protected total against the sequence. Reads no key and no value.
  // `sequence` must stay valid until the eviction is gone.
  virtual absl::StatusOr<std::unique_ptr<Eviction>> StartEviction(const SequenceView& sequence, const Policy& policy,
                                                                  const Budget& budget, PlanWants wants) = 0;

  // Validates policy, window and budget; `budget` may have amount 0 where the signal does not depend on it. ABORTED if
  // the window's rows are not the ones that follow `observed`. `sequence` must stay valid until the observation is
  // gone.
  virtual absl::StatusOr<std::unique_ptr<Observation>> StartObservation(const SequenceView& sequence,
                                                                        const Policy& policy, const Budget& budget) = 0;

  // Copies each unit's tokens that stay, with their positions and (for the first `normed` and `scored`) norms and
  // running scores, in order to their blocks; all is done when it returns. On an error no row is published.
  // REQUIRES: the plan is one of this engine's for these units, its masks were wanted or are not needed by the engine;
  // no `to` shares a block with another or with a unit's row.
  virtual absl::StatusOr<Publishing> CompactUnits(const SequenceView& sequence, const Plan& plan,
                                                  std::span<const UnitMove> moves, const TableView& table) = 0;

  // Whether steps and waves should be whole sequences: a layer is too little work for the device.
  virtual bool whole_sequences() const { return false; }
};

// The host engine: SIMD by Highway, a fixed pool of `threads` (>= 1) threads that includes the caller's.
std::unique_ptr<Engine> NewHostEngine(int threads);

}  // namespace kvsteward::engine
