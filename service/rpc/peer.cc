#include "service/rpc/peer.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace kvsteward::rpc {
namespace {

// From <asm-generic/socket.h> of Linux 6.5. Unlike a pid it means the same in every PID namespace.
constexpr int kSoPeerPidfd = 77;

bool Connected(int socket) {
  pollfd poll_socket{socket, POLLRDHUP, 0};
  return poll(&poll_socket, 1, 0) == 0;
}

}  // namespace

Peer PeerOf(int socket) {
  Peer peer;
  ucred credentials{};
  socklen_t size = sizeof(credentials);
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    peer.gone = true;
    return peer;
  }
  peer.pid = credentials.pid;
  peer.uid = credentials.uid;

  int pidfd = -1;
  size = sizeof(pidfd);
  if (getsockopt(socket, SOL_SOCKET, kSoPeerPidfd, &pidfd, &size) == 0) {
    peer.pidfd = UniqueFd(pidfd);
  } else if (errno == ENOPROTOOPT) {
    if (peer.pid > 0) peer.pidfd = UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, peer.pid, 0)));
    if (peer.pid > 0 && !peer.pidfd) peer.gone = errno == ESRCH;
  } else {
    peer.gone = errno == ESRCH || errno == EINVAL;
  }
  if (!Connected(socket)) peer.gone = true;
  return peer;
}

}  // namespace kvsteward::rpc
