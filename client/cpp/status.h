// How the sidecar's answers become absl::Status. Stateless; thread-safe.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "grpcpp/support/status.h"
#include "kvsteward/v1/steward.pb.h"

namespace kvsteward {

// Of a whole call. A shortage of memory is written out: how much is needed and how much is free.
absl::Status ToStatus(const grpc::Status& status);
// Of one sequence of a call.
absl::Status ToStatus(const v1::Outcome& outcome);

}  // namespace kvsteward
