// Writes a plan into the plan region, as kvsteward/shm.h describes it. Stateless.
#pragma once

#include <cstddef>
#include <span>

#include "absl/status/status.h"
#include "kvsteward/engine/paged.h"
#include "kvsteward/engine/plan.h"
#include "service/core/types.h"

namespace kvsteward::device {

// `units` are those that the plan was made for. Scores are 0 for protected tokens and where the plan has none (a
// no-op). RESOURCE_EXHAUSTED, and nothing is written, if the plan does not fit `place` or that does not fit `region`.
absl::Status ExportPlan(const engine::Plan& plan, std::span<const engine::UnitView> units, core::SequenceId sequence,
                        bool scores, const core::PlanPlace& place, std::span<std::byte> region);

}  // namespace kvsteward::device
