// Policies as the command line names them.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::app {

// A preset's name, or else a file with a policy as YAML. INVALID_ARGUMENT in one sentence for anything else.
absl::StatusOr<engine::Policy> FindPolicy(const std::string& name);

}  // namespace kvsteward::app
