// Compaction of units whose plan lies on the device, or on the host: uploads where to, copies, publishes. Stateless.
#pragma once

#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "kernels/cuda/device.h"
#include "kvsteward/engine/engine.h"

namespace kvsteward::engine::cuda {

// As Engine::CompactUnits. Rows are published by the device if the table's memory is registered for it.
absl::StatusOr<Publishing> CompactOnDevice(const std::shared_ptr<Device>& device, const SequenceView& sequence,
                                           const Plan& plan, std::span<const UnitMove> moves, const TableView& table);

}  // namespace kvsteward::engine::cuda
