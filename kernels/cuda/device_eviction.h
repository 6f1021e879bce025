// An eviction whose every stage runs on the device: all layers of a range in one sequence of launches, one wait at its
// end. Numbers that are not finite are the host's to judge: it plans again, over a copy, and either names them or finds
// that no row sees them. Thread-compatible, as Engine.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/device_sequence.h"
#include "kernels/cuda/select.h"
#include "kernels/plan/outline.h"
#include "kvsteward/engine/engine.h"

namespace kvsteward::engine::cuda {

// What CompactUnits needs of a plan that was made on the device.
struct DevicePlan {
  DeviceSequence sequence;
  DeviceArray lists;                // ascending residents that stay, unit after unit
  std::vector<int64_t> list_begin;  // [units]
};

class DeviceEviction final : public Eviction {
 public:
  using StartOnHost = std::function<absl::StatusOr<std::unique_ptr<Eviction>>()>;

  // As Engine::StartEviction. REQUIRES: RunsOnDevice(policy).
  static absl::StatusOr<std::unique_ptr<Eviction>> Start(const std::shared_ptr<Device>& device,
                                                         const SequenceView& sequence, const Policy& policy,
                                                         const Budget& budget, PlanWants wants,
                                                         StartOnHost start_on_host);

  bool finished() const override;
  // Plans the next range of layers.
  absl::Status Step() override;
  absl::Status CommitRunning() override { return absl::OkStatus(); }
  Plan TakePlan() override;
  double score_seconds() const override;
  double select_seconds() const override;

 private:
  class Range;  // the memory and launches of one range

  DeviceEviction(std::shared_ptr<Device> device, const SequenceView& sequence, const Policy& policy, PlanWants wants,
                 StartOnHost start_on_host)
      : device_(std::move(device)),
        sequence_(sequence),
        policy_(policy),
        wants_(wants),
        start_on_host_(std::move(start_on_host)) {}

  // The units' candidates: counted here where no stored position matters, else by the device.
  absl::StatusOr<std::vector<int32_t>> CountCandidates(int64_t k);
  absl::Status UploadSequence();
  // Divides the budget over the layers, or all units of `global`.
  void DivideBudget();

  const std::shared_ptr<Device> device_;
  const SequenceView sequence_;
  const Policy policy_;
  const PlanWants wants_;
  const StartOnHost start_on_host_;

  Outline outline_;
  std::shared_ptr<DevicePlan> made_;
  std::vector<int32_t> unit_candidates_;  // [units]
  std::vector<int64_t> totals_;           // candidates that stay, of each group of units that competes
  std::vector<int64_t> shares_;           // [units] of a table of heads, else empty
  std::vector<int64_t> list_offset_;      // [groups + 1] where the lists of each group's units begin
  size_t done_ = 0;                       // ranges
  Plan plan_;
  double score_seconds_ = 0;
  double select_seconds_ = 0;
  std::unique_ptr<Eviction> on_host_;  // has taken over
};

}  // namespace kvsteward::engine::cuda
