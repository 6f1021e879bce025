// How the sidecar's answers become absl::Status. Stateless; thread-safe.
#pragma once

#include "absl/status/status.h"
#include "grpcpp/support/status.h"
#include "kvsteward/v1/steward.pb.h"

namespace kvsteward {

// Of a whole call, and of one sequence of a call. A shortage travels in the status, for ShortageOf.
absl::Status ToStatus(const grpc::Status& status);
absl::Status ToStatus(const v1::Outcome& outcome);

}  // namespace kvsteward
