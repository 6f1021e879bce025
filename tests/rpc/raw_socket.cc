#include "tests/rpc/raw_socket.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <utility>

#include "base/fd_passing.h"

namespace kvsteward::rpc {
namespace {

constexpr int kPatience = 30'000;  // milliseconds

}  // namespace

UniqueFd ConnectFdSocket(const std::string& path) {
  UniqueFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) fd.reset();
  return fd;
}

std::optional<kvs_fd_message> ReceiveFdMessage(int socket, UniqueFd* fd) {
  pollfd readable{socket, POLLIN, 0};
  if (poll(&readable, 1, kPatience) != 1) return std::nullopt;
  absl::StatusOr<ReceivedMessage> received = ReceiveWithFds(socket, sizeof(kvs_fd_message), MSG_DONTWAIT);
  if (!received.ok() || received->bytes.size() != sizeof(kvs_fd_message)) return std::nullopt;
  if (fd != nullptr && !received->fds.empty()) *fd = std::move(received->fds[0]);
  kvs_fd_message message;
  std::memcpy(&message, received->bytes.data(), sizeof(message));
  return message;
}

bool HungUp(int socket) {
  for (;;) {
    pollfd readable{socket, POLLIN, 0};
    if (poll(&readable, 1, kPatience) != 1) return false;
    char bytes[256];
    if (recv(socket, bytes, sizeof(bytes), MSG_DONTWAIT) <= 0) return true;
  }
}

bool SendRaw(int socket, const void* bytes, size_t size) {
  return send(socket, bytes, size, MSG_NOSIGNAL) == static_cast<ssize_t>(size);
}

kvs_fd_message FdMessage(uint32_t type) {
  kvs_fd_message message{};
  message.magic = KVS_SHM_MAGIC;
  message.version = KVS_SHM_VERSION;
  message.type = type;
  return message;
}

}  // namespace kvsteward::rpc
