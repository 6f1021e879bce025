// Evictions and observations of a device's sequence that are led by the host, over a copy of what its stages read.
// Thread-compatible, as Engine.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cuda/device.h"
#include "kvsteward/engine/engine.h"

namespace kvsteward::engine::cuda {

// Who makes attention and norms: the device where it has kernels for them, or the host alone.
enum class Scorer { kDevice, kHost };

// As Engine's. `threads` must outlive what they return.
absl::StatusOr<std::unique_ptr<Eviction>> StartEvictionOnHost(std::shared_ptr<Device> device, cpu::ThreadPool& threads,
                                                              const SequenceView& sequence, const Policy& policy,
                                                              const Budget& budget, PlanWants wants, Scorer scorer);
absl::StatusOr<std::unique_ptr<Observation>> StartObservationOnHost(std::shared_ptr<Device> device,
                                                                    cpu::ThreadPool& threads,
                                                                    const SequenceView& sequence, const Policy& policy,
                                                                    const Budget& budget);

}  // namespace kvsteward::engine::cuda
