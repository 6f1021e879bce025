// The worker's end of the fd socket: connects, receives the ticket and then memory objects. What arrives is checked
// message by message; what the objects hold is checked by lease_memory.h. One thread at a time; the descriptor may be
// polled by another.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "kvsteward/shm.h"

namespace kvsteward {

using Deadline = std::chrono::steady_clock::time_point;

// One memory object, as the sidecar announced it.
struct ReceivedObject {
  uint32_t kind = 0;  // kvs_object_kind
  uint32_t index = 0;
  uint64_t bytes = 0;
  UniqueFd fd;
};

class FdConnection {
 public:
  // UNAVAILABLE if nobody listens or the peer hangs up, DEADLINE_EXCEEDED if it sends no ticket, PERMISSION_DENIED if
  // the socket's mode forbids it, INTERNAL if what it sends is not the protocol.
  static absl::StatusOr<FdConnection> Connect(const std::string& path, Deadline deadline);
  // The same on a connected socket.
  static absl::StatusOr<FdConnection> Adopt(UniqueFd socket, Deadline deadline);

  const std::array<uint8_t, 16>& ticket() const { return ticket_; }
  int fd() const { return socket_.get(); }

  // Never waits: RESOURCE_EXHAUSTED if there is nothing to read, UNAVAILABLE at the end of the connection, INTERNAL if
  // the message is none of the protocol's.
  absl::StatusOr<ReceivedObject> Receive();

  // Tells the sidecar that everything is unmapped. A failure does not matter: closing says the same.
  void Detach();

 private:
  explicit FdConnection(UniqueFd socket) : socket_(std::move(socket)) {}

  UniqueFd socket_;
  std::array<uint8_t, 16> ticket_{};
};

}  // namespace kvsteward
