// Evictions and observations of a device's sequence that the host engine makes, over a copy of what it reads.
// Thread-compatible, as Engine.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/cuda/device.h"
#include "kernels/plan/layer_engine.h"

namespace kvsteward::engine::cuda {

// As Engine's. `host` must outlive what they return.
absl::StatusOr<std::unique_ptr<Eviction>> StartEvictionOnHost(std::shared_ptr<Device> device, LayerEngine& host,
                                                              const SequenceView& sequence, const Policy& policy,
                                                              const Budget& budget, PlanWants wants);
absl::StatusOr<std::unique_ptr<Observation>> StartObservationOnHost(std::shared_ptr<Device> device, LayerEngine& host,
                                                                    const SequenceView& sequence, const Policy& policy,
                                                                    const Budget& budget);

}  // namespace kvsteward::engine::cuda
