// The checks that come before any tensor is read: whether a policy can work, and whether a sequence and what was sent
// with it are what the policy reads. Stateless; thread-safe.
#pragma once

#include "absl/status/status.h"
#include "kvsteward/engine/paged.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {

// INVALID_ARGUMENT naming the stage or field and what it lacks. Costs O(units + rows); with a span over the layer also
// the residents that survived an eviction.
absl::Status CheckEviction(const SequenceView& sequence, const Policy& policy);

// The same for rows that go into running scores; ABORTED if they are not the ones that follow `sequence.observed`.
absl::Status CheckObservation(const SequenceView& sequence, const Policy& policy);

// Whether the policy's signal depends on the budget, so that observing needs one, too.
bool SignalReadsBudget(const Policy& policy);

}  // namespace kvsteward::engine
