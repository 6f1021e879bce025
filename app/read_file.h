// Files that a user names. Stateless; thread-safe.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace kvsteward::app {

// What the file holds. NOT_FOUND if there is none of that path; INVALID_ARGUMENT naming the path and the cause if it
// cannot be read, as a directory.
absl::StatusOr<std::string> ReadFile(const std::string& path);

}  // namespace kvsteward::app
