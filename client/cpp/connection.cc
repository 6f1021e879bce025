#include "client/cpp/connection.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/fd_passing.h"

namespace kvsteward {
namespace {

struct Datagram {
  kvs_fd_message message;
  std::vector<UniqueFd> fds;
};

// One datagram that is at least shaped like a message of ours.
absl::StatusOr<Datagram> ReadDatagram(int socket) {
  absl::StatusOr<ReceivedMessage> received = ReceiveWithFds(socket, sizeof(kvs_fd_message), MSG_DONTWAIT);
  if (absl::IsInvalidArgument(received.status())) return absl::InternalError(received.status().message());
  if (!received.ok()) return received.status();
  if (received->bytes.size() != sizeof(kvs_fd_message)) {
    return absl::InternalError(absl::StrCat("the sidecar sent a message of ", received->bytes.size(),
                                            " bytes on the fd socket where ", sizeof(kvs_fd_message), " are due"));
  }
  Datagram datagram;
  std::memcpy(&datagram.message, received->bytes.data(), sizeof(kvs_fd_message));
  datagram.fds = std::move(received->fds);
  if (datagram.message.magic != KVS_SHM_MAGIC || datagram.message.version != KVS_SHM_VERSION) {
    return absl::InternalError(absl::StrCat("the fd socket speaks magic ", datagram.message.magic, " version ",
                                            datagram.message.version, ", this client ", KVS_SHM_MAGIC, " version ",
                                            KVS_SHM_VERSION, ": use a client of the sidecar's release"));
  }
  return datagram;
}

absl::Status AwaitReadable(int socket, Deadline deadline) {
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    pollfd event{socket, POLLIN, 0};
    const int ready = poll(&event, 1, static_cast<int>(std::clamp<int64_t>(left, 0, 1'000'000)));
    if (ready > 0) return absl::OkStatus();
    if (ready < 0 && errno != EINTR) return absl::InternalError(absl::StrCat("poll: ", std::strerror(errno)));
    if (std::chrono::steady_clock::now() >= deadline) {
      return absl::DeadlineExceededError("the sidecar sent no ticket on the fd socket in time");
    }
  }
}

}  // namespace

absl::StatusOr<FdConnection> FdConnection::Connect(const std::string& path, Deadline deadline) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("fd_socket is a path of ", path.size(), " bytes: give one of 1 to ",
                                                   sizeof(address.sun_path) - 1));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return absl::ResourceExhaustedError(absl::StrCat("opening a socket: ", std::strerror(errno)));
  while (connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    if (errno == EACCES || errno == EPERM) {
      return absl::PermissionDeniedError(absl::StrCat("fd_socket ", path, " may not be opened by this user"));
    }
    // A full backlog (EAGAIN) cannot be polled for.
    const bool again = errno == EAGAIN || errno == EINTR;
    if (!again || std::chrono::steady_clock::now() >= deadline) {
      return absl::UnavailableError(
          absl::StrCat("no sidecar answers on fd_socket ", path, " (", std::strerror(errno), "): start it first"));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return Adopt(std::move(socket), deadline);
}

absl::StatusOr<FdConnection> FdConnection::Adopt(UniqueFd socket, Deadline deadline) {
  FdConnection connection(std::move(socket));
  if (absl::Status status = AwaitReadable(connection.fd(), deadline); !status.ok()) return status;
  absl::StatusOr<Datagram> datagram = ReadDatagram(connection.fd());
  if (!datagram.ok()) return datagram.status();
  if (datagram->message.type != KVS_FD_TICKET || !datagram->fds.empty()) {
    return absl::InternalError("the first message on the fd socket is not a ticket");
  }
  std::copy(std::begin(datagram->message.ticket), std::end(datagram->message.ticket), connection.ticket_.begin());
  return connection;
}

absl::StatusOr<ReceivedObject> FdConnection::Receive() {
  absl::StatusOr<Datagram> datagram = ReadDatagram(fd());
  if (!datagram.ok()) return datagram.status();
  const kvs_fd_message& message = datagram->message;
  if (message.type != KVS_FD_OBJECT) {
    return absl::InternalError(absl::StrCat("the sidecar sent a message of type ", message.type,
                                            " on the fd socket where only memory objects are due"));
  }
  if (datagram->fds.size() != 1) {
    return absl::InternalError(absl::StrCat("the sidecar sent a memory object with ", datagram->fds.size(),
                                            " descriptors instead of one; the worker may have no descriptor left"));
  }
  return ReceivedObject{message.kind, message.index, message.bytes, std::move(datagram->fds.front())};
}

void FdConnection::Detach() {
  kvs_fd_message message{};
  message.magic = KVS_SHM_MAGIC;
  message.version = KVS_SHM_VERSION;
  message.type = KVS_FD_DETACH;
  (void)SendWithFds(fd(), std::as_bytes(std::span(&message, 1)), {}, MSG_DONTWAIT);
}

}  // namespace kvsteward
