// What a received object is called in errors, and what every file must be before it is mapped. Stateless.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "client/cpp/connection.h"

namespace kvsteward {

// INTERNAL: "the sidecar's extent 3 <why>".
absl::Status Wrong(const ReceivedObject& object, const std::string& why);
// RESOURCE_EXHAUSTED, with what errno says.
absl::Status MapFailed(const ReceivedObject& object);

// That it is a file which is as large as announced and stays so: reading it cannot fault.
absl::Status CheckFile(const ReceivedObject& object);

}  // namespace kvsteward
