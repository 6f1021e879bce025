// Which stages of a policy cannot work together. Stateless; thread-safe.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {

// INVALID_ARGUMENT "<field> is <value>; it must be <allowed>".
absl::Status WrongField(const std::string& field, const std::string& value, const std::string& allowed);

// INVALID_ARGUMENT naming the stage that another one leaves no room for. REQUIRES: each stage alone is right.
absl::Status ValidateCombination(const Policy& policy);

}  // namespace kvsteward::engine
