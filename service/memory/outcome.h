// From the statuses of our libraries to the words of core.
#pragma once

#include "absl/status/status.h"
#include "service/core/types.h"

namespace kvsteward::memory {

// Codes that core does not have become kUnavailable: something that no caller can change.
core::Outcome ToOutcome(const absl::Status& status);

}  // namespace kvsteward::memory
