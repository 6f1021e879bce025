// Stages 1 to 3 of single layers on the device, for policies whose later stages run on the host. Used by one thread at
// a time; the sequence must outlive it.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/cpu/attention.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/device_sequence.h"
#include "kvsteward/engine/paged.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine::cuda {

class DeviceScores {
 public:
  // REQUIRES: ScoresOnDevice(policy).
  static absl::StatusOr<std::unique_ptr<DeviceScores>> Make(std::shared_ptr<Device> device,
                                                            const SequenceView& sequence, const Policy& policy);

  // As cpu::ScoreAttention. False if a number was not finite, seen or not: then `output` means nothing, and the host is
  // to look closer.
  absl::StatusOr<bool> Score(int64_t k, int32_t layer, const cpu::AttentionOutput& output);
  // Value norms of the layer's residents that have none. False if one is not finite.
  absl::StatusOr<bool> FillNorms(int32_t layer);

 private:
  DeviceScores(std::shared_ptr<Device> device, const SequenceView& sequence, const Policy& policy,
               DeviceSequence on_device)
      : device_(std::move(device)), sequence_(sequence), policy_(policy), on_device_(std::move(on_device)) {}

  // Whether the kernels left the entries [units] as they were reset.
  absl::StatusOr<bool> AllGood(const int64_t* bad, int32_t units);

  const std::shared_ptr<Device> device_;
  const SequenceView& sequence_;
  const Policy policy_;
  const DeviceSequence on_device_;  // a range per layer
};

}  // namespace kvsteward::engine::cuda
