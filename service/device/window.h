// Where the queries of an eviction lie. Stateless.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kvsteward/engine/paged.h"
#include "service/device/evict_spec.h"
#include "service/memory/lease_spec.h"

namespace kvsteward::device {

// The window as `evict` gives it: inline, or in a slot of the lease's statistics region. `positions` is filled with the
// last rows of the written tokens if `evict` names none; the view points into it and into `statistics` or `evict`.
// A window of no rows is an empty view. INVALID_ARGUMENT naming the field if the window does not fit the lease.
absl::StatusOr<engine::WindowView> ResolveWindow(const core::EvictSpec& evict, const core::LeaseSpec& lease,
                                                 std::span<const std::byte> statistics, int32_t written_tokens,
                                                 std::vector<int32_t>* positions);

}  // namespace kvsteward::device
