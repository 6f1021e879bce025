// A recorded sequence through a running sidecar, as a worker would hand it over. Stateless; thread-safe.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "app/replay/replay_file.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::replay {

struct RemoteSidecar {
  std::string address;    // gRPC, "unix:..."
  std::string fd_socket;  // path of a tenant's fd socket
};

// Plans the eviction of `input` down to `budget` in the sidecar; nothing there outlives the call. The result is that of
// ReplayInProcess, bit for bit, if both run the same binary and instruction set. INVALID_ARGUMENT naming what is wrong
// with policy, budget or tensors; UNAVAILABLE without a sidecar; RESOURCE_EXHAUSTED if the tenant's memory does not
// hold the tensors, or limits.message_bytes not their positions.
absl::StatusOr<ReplayOutput> ReplayInSidecar(const ReplayInput& input, const engine::Policy& policy,
                                             const engine::Budget& budget, const RemoteSidecar& sidecar);

}  // namespace kvsteward::replay
