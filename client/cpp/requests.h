// From what a worker asks to what travels. Stateless.
#pragma once

#include "absl/status/status.h"
#include "kvsteward/client.h"
#include "kvsteward/v1/steward.pb.h"

namespace kvsteward {

// INVALID_ARGUMENT unless the options have exactly one budget.
absl::Status Fill(const EvictOptions& options, v1::EvictSequence& item);
// INVALID_ARGUMENT if the options have more than one budget.
absl::Status Fill(const ObserveOptions& options, v1::ObserveSequence& item);

Evicted ToEvicted(const v1::EvictedSequence& reply);

}  // namespace kvsteward
