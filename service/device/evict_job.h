// One job on one sequence: an eviction, planned a layer at a time, then compacted in waves of units, again a layer's
// worth at a time; or an Observe, whose rows are accumulated a layer at a time and stored at the end. Used by one
// thread, except for Cancel.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "kvsteward/engine/engine.h"
#include "kvsteward/engine/paged.h"
#include "kvsteward/engine/plan.h"
#include "service/core/effects.h"
#include "service/core/events.h"
#include "service/device/evict_spec.h"
#include "service/memory/lease_pool.h"

namespace kvsteward::device {

class EvictJob {
 public:
  // REQUIRES: `pool` is the lease's and holds every block of the units; nothing of that is destroyed before the job.
  // The job has a policy.
  EvictJob(core::RunEvict ask, std::shared_ptr<memory::LeasePool> pool);
  EvictJob(const EvictJob&) = delete;
  EvictJob& operator=(const EvictJob&) = delete;

  const core::RunEvict& ask() const { return ask_; }

  // From any thread: stops within the layer that is scored, or before the next layer is compacted.
  void Cancel() { cancelled_ = true; }

  // Takes the eviction's or observation's next step. The answer comes with the last one, or with what was refused;
  // running scores change with the last one only.
  std::optional<core::EvictPlanned> PlanLayer(engine::Engine& engine);
  // Compacts the next units of the wave, all that are of one layer, or the whole wave where the engine wants whole
  // sequences. The answer comes with the last one, or with how far
  // it came: a cancelled job stops at a layer's end, so that all of the layer's units are old or all are new. REQUIRES:
  // planning ended well and was no no-op; the same wave until it is answered; a unit is compacted once.
  std::optional<core::UnitsCompacted> CompactLayer(engine::Engine& engine, const core::CompactUnits& wave);

  // The answers of a job whose last step ran out of memory: a plan that is refused, a wave that came so far.
  core::EvictPlanned Refuse(const absl::Status& status) const;
  core::UnitsCompacted StopCompacting(const absl::Status& status);

 private:
  absl::Status Start(engine::Engine& engine);
  absl::Status CheckAccumulated() const;
  bool finished() const { return eviction_ ? eviction_->finished() : observation_->finished(); }
  // REQUIRES: finished().
  core::EvictPlanned FinishObserve();
  core::EvictPlanned FinishEvict();
  // Compacts these units and publishes their rows.
  absl::Status CompactAndPublish(engine::Engine& engine, std::span<const core::CompactTo> units);

  const core::RunEvict ask_;
  const std::shared_ptr<memory::LeasePool> pool_;
  const std::chrono::steady_clock::time_point asked_at_ = std::chrono::steady_clock::now();
  std::atomic<bool> cancelled_ = false;

  bool started_ = false;
  int32_t observed_ = 0;  // rows below it will be in the running scores if the policy has some
  core::EvictTimes times_;
  std::vector<engine::UnitView> units_;
  std::vector<int32_t> window_positions_;
  std::vector<uint8_t> classes_;
  engine::SequenceView sequence_;                     // of the sequence as the job found it, once started
  std::unique_ptr<engine::Eviction> eviction_;        // of an eviction
  std::unique_ptr<engine::Observation> observation_;  // of an Observe
  engine::Plan plan_;
  core::UnitsCompacted progress_;  // of the wave
  int64_t layer_ = -1;             // whose units were compacted last; waves may cut it
};

}  // namespace kvsteward::device
