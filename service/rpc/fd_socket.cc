#include "service/rpc/fd_socket.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
#include <utility>

#include "base/fd_passing.h"
#include "service/rpc/peer.h"
#include "service/rpc/secret.h"
#include "spdlog/spdlog.h"

namespace kvsteward::rpc {
namespace {

// What epoll gives back: an id and what it is of.
enum Tag : uint64_t { kListener = 0, kConnection = 1, kProcess = 2, kWake = 3 };
constexpr uint64_t MakeTag(Tag tag, uint64_t id) { return id * 4 + tag; }

// So many connections are accepted before the others get their turn.
constexpr int kAcceptsPerTurn = 16;
// How long accepting rests when the process or the machine is out of descriptors.
constexpr int kPauseMilliseconds = 100;

// From <asm-generic/socket.h> of Linux 6.16: descriptors sent to us are refused instead of being held until we read.
constexpr int kSoPassRights = 83;

bool IsDetach(std::span<const std::byte> bytes) {
  kvs_fd_message message;
  if (bytes.size() != sizeof(message)) return false;
  std::memcpy(&message, bytes.data(), sizeof(message));
  return message.magic == KVS_SHM_MAGIC && message.version == KVS_SHM_VERSION && message.type == KVS_FD_DETACH;
}

kvs_fd_message TicketMessage(const core::Secret& ticket) {
  kvs_fd_message message{};
  message.magic = KVS_SHM_MAGIC;
  message.version = KVS_SHM_VERSION;
  message.type = KVS_FD_TICKET;
  std::copy(ticket.begin(), ticket.end(), message.ticket);
  return message;
}

}  // namespace

absl::StatusOr<std::unique_ptr<FdSocket>> FdSocket::Listen(const std::vector<TenantSocket>& tenants,
                                                           uint32_t connections,
                                                           std::function<void(core::Event)> post) {
  std::vector<Listener> listeners;
  listeners.reserve(tenants.size());
  for (const TenantSocket& tenant : tenants) {
    absl::StatusOr<SocketPath> path = SocketPath::Claim(tenant.path, SOCK_SEQPACKET);
    if (!path.ok()) return path.status();
    absl::StatusOr<UniqueFd> fd = ListenSeqpacket(*path);
    if (!fd.ok()) return fd.status();
    if (absl::Status status = path->SetMode(0660); !status.ok()) return status;
    const int no = 0;
    setsockopt(fd->get(), SOL_SOCKET, kSoPassRights, &no, sizeof(no));  // older kernels do without
    listeners.push_back(Listener{tenant.tenant, *std::move(path), *std::move(fd)});
  }
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  UniqueFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!epoll || !wake) return absl::UnavailableError("the fd socket cannot make an epoll instance");
  std::unique_ptr<FdSocket> socket(
      new FdSocket(std::move(listeners), connections, std::move(epoll), std::move(wake), std::move(post)));
  for (size_t i = 0; i < socket->listeners_.size(); ++i) {
    if (!socket->Watch(socket->listeners_[i].fd.get(), MakeTag(kListener, i))) {
      return absl::UnavailableError("the fd socket cannot watch " + socket->listeners_[i].path.path());
    }
  }
  if (!socket->Watch(socket->wake_.get(), kWake)) return absl::UnavailableError("the fd socket cannot be watched");
  return socket;
}

FdSocket::FdSocket(std::vector<Listener> listeners, uint32_t connections, UniqueFd epoll, UniqueFd wake,
                   std::function<void(core::Event)> post)
    : listeners_(std::move(listeners)),
      most_connections_(connections),
      epoll_(std::move(epoll)),
      wake_(std::move(wake)),
      post_(std::move(post)) {}

FdSocket::~FdSocket() { Stop(); }

void FdSocket::Start() {
  thread_ = std::thread([this] { Run(); });
}

void FdSocket::Stop() {
  if (!thread_.joinable()) return;
  eventfd_write(wake_.get(), 1);
  thread_.join();
  MutexLock lock(mutex_);
  connections_.clear();
}

// ---- Any thread
// ------------------------------------------------------------------------------------------------------
void FdSocket::Send(core::SocketId socket, const kvs_fd_message& message, int fd) {
  MutexLock lock(mutex_);
  const auto found = connections_.find(socket);
  if (found == connections_.end() || !found->second.fd || found->second.closing) return;
  Connection& connection = found->second;
  connection.got_object = true;
  const absl::Status sent =
      SendWithFds(connection.fd.get(), std::as_bytes(std::span(&message, 1)), std::span(&fd, 1), MSG_DONTWAIT);
  if (!sent.ok()) {
    CloseLocked(
        socket, connection,
        absl::IsResourceExhausted(sent) ? "the worker does not read its fd socket" : std::string(sent.message()));
  }
}

void FdSocket::Close(core::SocketId socket, const std::string& reason) {
  MutexLock lock(mutex_);
  const auto found = connections_.find(socket);
  if (found != connections_.end()) CloseLocked(socket, found->second, reason);
}

// Our thread sees the end of file then and does the rest.
void FdSocket::CloseLocked(core::SocketId id, Connection& connection, const std::string& reason) {
  if (!connection.fd || connection.closing) return;
  connection.closing = true;
  shutdown(connection.fd.get(), SHUT_RDWR);
  spdlog::debug("event=socket_hung_up socket={} reason=\"{}\"", id, reason);
}

// ---- Our thread
// ------------------------------------------------------------------------------------------------------
bool FdSocket::Watch(int fd, uint64_t tag) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = tag;
  return epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0;
}

void FdSocket::Run() {
  epoll_event events[64];
  for (;;) {
    const int count = epoll_wait(epoll_.get(), events, std::size(events), paused_ ? kPauseMilliseconds : -1);
    if (paused_) PauseAccepting(false);
    for (int i = 0; i < count; ++i) {
      const uint64_t id = events[i].data.u64 / 4;
      switch (static_cast<Tag>(events[i].data.u64 % 4)) {
        case kListener:
          Accept(id);
          break;
        case kConnection:
          Read(id);
          break;
        case kProcess:
          ProcessEnded(id);
          break;
        case kWake:
          return;
      }
    }
  }
}

void FdSocket::Accept(size_t listener) {
  for (int i = 0; i < kAcceptsPerTurn; ++i) {
    UniqueFd fd(accept4(listeners_[listener].fd.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      // Out of descriptors or memory: the listener stays readable, so look away for a while.
      if (errno != EAGAIN && errno != EWOULDBLOCK) PauseAccepting(true);
      return;
    }
    Open(listener, std::move(fd));
  }
}

void FdSocket::PauseAccepting(bool pause) {
  paused_ = pause;
  for (size_t i = 0; i < listeners_.size(); ++i) {
    epoll_event event{};
    if (!pause) event.events = EPOLLIN;
    event.data.u64 = MakeTag(kListener, i);
    epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, listeners_[i].fd.get(), &event);
  }
}

void FdSocket::Open(size_t listener, UniqueFd fd) {
  const std::string& tenant = listeners_[listener].tenant;
  if (listeners_[listener].connections >= most_connections_) {
    spdlog::debug("event=socket_refused tenant={} reason=\"limits.leases connections are open\"", tenant);
    return;
  }
  Peer peer = PeerOf(fd.get());
  if (peer.gone) return;
  const bool death_observable = static_cast<bool>(peer.pidfd);
  const core::SocketId id = ++last_id_;
  if (!Watch(fd.get(), MakeTag(kConnection, id)) ||
      (death_observable && !Watch(peer.pidfd.get(), MakeTag(kProcess, id)))) {
    return;
  }
  const int raw_fd = fd.get();
  {
    MutexLock lock(mutex_);
    connections_.emplace(id, Connection{listener, std::move(fd), std::move(peer.pidfd)});
  }
  ++listeners_[listener].connections;
  const core::Secret ticket = NewSecret();
  // Posted before the worker can know the ticket, so that no Attach overtakes it.
  post_(core::SocketOpened{id, tenant, ticket, death_observable});
  spdlog::debug("event=socket_opened tenant={} socket={} pid={} uid={} death_observable={}", tenant, id, peer.pid,
                peer.uid, death_observable);
  const kvs_fd_message message = TicketMessage(ticket);
  if (!SendWithFds(raw_fd, std::as_bytes(std::span(&message, 1)), {}, MSG_DONTWAIT).ok()) {
    Close(id, "the ticket cannot be sent");
  }
}

// The only legal message is one KVS_FD_DETACH, so a peer that floods us gets two messages read.
void FdSocket::Read(core::SocketId id) {
  for (;;) {
    std::byte bytes[sizeof(kvs_fd_message) + 1];
    ssize_t got;
    {
      MutexLock lock(mutex_);
      const auto found = connections_.find(id);
      if (found == connections_.end() || !found->second.fd) return;
      // Without room for control data the kernel drops descriptors that came along.
      got = recv(found->second.fd.get(), bytes, sizeof(bytes), MSG_DONTWAIT);
      // A peer that closes with unread objects resets the connection, and that is said before what it sent last.
      if (got < 0 && (errno == EINTR || errno == ECONNRESET)) continue;
      if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
      if (got > 0) {
        if (found->second.detached || !IsDetach(std::span(bytes, static_cast<size_t>(got)))) {
          spdlog::debug("event=socket_garbage socket={} bytes={}", id, got);
          got = 0;
        } else {
          found->second.detached = true;
        }
      }
    }
    if (got <= 0) break;
    post_(core::Detached{id});
  }
  HangUp(id);
}

void FdSocket::HangUp(core::SocketId id) {
  bool never_had_objects = false;
  {
    MutexLock lock(mutex_);
    const auto found = connections_.find(id);
    Connection& connection = found->second;
    connection.fd.reset();
    never_had_objects = !connection.got_object && !connection.detached;
    if (!connection.got_object || connection.detached) connection.pidfd.reset();
    if (!connection.pidfd) {
      --listeners_[connection.listener].connections;
      connections_.erase(found);
    }
  }
  if (never_had_objects) post_(core::Detached{id});
  post_(core::SocketClosed{id});
  spdlog::debug("event=socket_closed socket={}", id);
}

void FdSocket::ProcessEnded(core::SocketId id) {
  Read(id);  // what it said last
  bool connected = false;
  {
    MutexLock lock(mutex_);
    const auto found = connections_.find(id);
    if (found == connections_.end()) return;
    connected = static_cast<bool>(found->second.fd);
  }
  // Somebody else holds the connection of a dead process: it is no worker.
  if (connected) HangUp(id);
  {
    MutexLock lock(mutex_);
    const auto found = connections_.find(id);
    if (found == connections_.end()) return;
    --listeners_[found->second.listener].connections;
    connections_.erase(found);
  }
  post_(core::ProcessGone{id});
  spdlog::debug("event=process_gone socket={}", id);
}

}  // namespace kvsteward::rpc
