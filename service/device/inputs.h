// Where what the stages of an eviction read beside the window lies. Stateless.
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

// The inputs as `evict` gives them: inline, or in the inputs area of the lease's statistics region. The view points
// into `evict`, `statistics` and `classes`, to which the classes are copied: the worker may change its bytes at any
// time. `residents` are those of all units. INVALID_ARGUMENT naming the input whose size or place is wrong.
absl::StatusOr<engine::InputView> ResolveInputs(const core::EvictSpec& evict, const core::LeaseSpec& lease,
                                                std::span<const std::byte> statistics, int32_t written_tokens,
                                                uint64_t residents, std::vector<uint8_t>* classes);

}  // namespace kvsteward::device
