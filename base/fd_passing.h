// Datagrams with file descriptors over a SOCK_SEQPACKET Unix socket (SCM_RIGHTS). Stateless; thread-safe per socket as
// far as the kernel is: one reader and one writer at a time.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace kvsteward {

// The most descriptors the kernel passes in one message.
inline constexpr size_t kMaxPassedFds = 253;

// Sends one datagram. `flags` as in sendmsg(2); MSG_NOSIGNAL is added. RESOURCE_EXHAUSTED if MSG_DONTWAIT was given and
// the peer does not read; UNAVAILABLE if it is gone.
absl::Status SendWithFds(int socket, std::span<const std::byte> bytes, std::span<const int> fds, int flags);

struct ReceivedMessage {
  std::vector<std::byte> bytes;
  std::vector<UniqueFd> fds;  // close-on-exec
};
// Receives one datagram of at most `max_bytes`. UNAVAILABLE at end of file; INVALID_ARGUMENT if it was longer.
absl::StatusOr<ReceivedMessage> ReceiveWithFds(int socket, size_t max_bytes, int flags);

}  // namespace kvsteward
