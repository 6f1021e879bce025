// A claimed path of a listening Unix socket: no other kvsteward can take it while this value lives, and a socket file
// that a dead one left behind is gone. A move-only value, not thread-safe.
#pragma once

#include <sys/types.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace kvsteward::rpc {

// What sockaddr_un holds, less the terminating zero.
inline constexpr size_t kMaxSocketPath = 107;

class SocketPath {
 public:
  // Takes the lock file "<path>.lock", which stays behind for good: removing it would let two daemons hold two locks.
  // `type` is SOCK_STREAM or SOCK_SEQPACKET. INVALID_ARGUMENT if the path is empty or too long or names something that
  // is no socket; FAILED_PRECONDITION if another kvsteward (named by its pid) or a foreign program listens there;
  // UNAVAILABLE if the file system refuses.
  static absl::StatusOr<SocketPath> Claim(const std::string& path, int type);

  ~SocketPath();  // removes the socket file, then lets the path go
  SocketPath(SocketPath&&) = default;
  SocketPath& operator=(SocketPath&&) = delete;

  const std::string& path() const { return path_; }
  // Who may connect. To be called once the socket file is there.
  absl::Status SetMode(mode_t mode) const;

 private:
  SocketPath(std::string path, UniqueFd lock) : path_(std::move(path)), lock_(std::move(lock)) {}

  std::string path_;
  UniqueFd lock_;  // empty once moved from
};

// Binds and listens; SOCK_SEQPACKET, non-blocking, close-on-exec.
absl::StatusOr<UniqueFd> ListenSeqpacket(const SocketPath& path);

}  // namespace kvsteward::rpc
