// Who is at the other end of a Unix socket, and how to see it die. Thread-safe.
#pragma once

#include <sys/types.h>

#include "base/unique_fd.h"

namespace kvsteward::rpc {

struct Peer {
  pid_t pid = 0;  // 0: it lives in a foreign PID namespace
  uid_t uid = 0;
  bool gone = false;  // it has died or hung up already
  UniqueFd pidfd;     // readable once the process is gone; empty if this kernel cannot tell
};

// The process that made the connection `socket`. The pidfd is surely its own: where the kernel does not give it out
// with the connection (before Linux 6.5), the pid is looked up and the connection must still stand afterwards, so that
// the pid was not another's by then.
Peer PeerOf(int socket);

}  // namespace kvsteward::rpc
