// The fd sockets, one path per tenant: whoever can connect speaks for the tenant, and the connection is the lease.
// Accepts, hands out tickets, passes descriptors on, and tells when a connection or the process behind it is gone. It
// decides nothing about leases. Send and Close may be called from any thread; everything else happens on a thread of
// its own.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "base/unique_fd.h"
#include "service/core/events.h"
#include "service/rpc/socket_path.h"
#include "service/steward/steward.h"

namespace kvsteward::rpc {

struct TenantSocket {
  std::string tenant;
  std::string path;
};

// Events of one connection, in order: SocketOpened; Detached, if the worker said so or was never sent an object; then
// SocketClosed and, if objects may still be mapped and the death is observable, ProcessGone.
class FdSocket final : public steward::SocketPort {
 public:
  // `post` is called on the socket's thread. At most `connections` of each tenant are held at a time, processes
  // included that hung up without detaching and live on; more are hung up on.
  static absl::StatusOr<std::unique_ptr<FdSocket>> Listen(const std::vector<TenantSocket>& tenants,
                                                          uint32_t connections, std::function<void(core::Event)> post);
  ~FdSocket() override;  // stops
  FdSocket(const FdSocket&) = delete;
  FdSocket& operator=(const FdSocket&) = delete;

  void Start();
  void Stop();  // hangs up on everybody, posts nothing any more; idempotent

  void Send(core::SocketId socket, const kvs_fd_message& message, int fd) override;
  void Close(core::SocketId socket, const std::string& reason) override;

 private:
  struct Listener {
    std::string tenant;
    SocketPath path;
    UniqueFd fd;
    uint32_t connections = 0;
  };
  // Invariant: `fd` or `pidfd` is open. Without `fd` only the process is watched. `fd` and `pidfd` change on our thread
  // alone, which may therefore read them without the lock.
  struct Connection {
    size_t listener = 0;
    UniqueFd fd;
    UniqueFd pidfd;
    bool got_object = false;  // something may be mapped
    bool detached = false;
    bool closing = false;  // Close has been called; its end is on the way
  };

  FdSocket(std::vector<Listener> listeners, uint32_t connections, UniqueFd epoll, UniqueFd wake,
           std::function<void(core::Event)> post);

  void Run();
  void Accept(size_t listener);
  void Open(size_t listener, UniqueFd fd);
  void Read(core::SocketId id);
  void HangUp(core::SocketId id);
  void ProcessEnded(core::SocketId id);
  void PauseAccepting(bool pause);

  bool Watch(int fd, uint64_t tag);
  void CloseLocked(core::SocketId id, Connection& connection, const std::string& reason) KVS_REQUIRES(mutex_);

  std::vector<Listener> listeners_;  // our thread's, once started
  const uint32_t most_connections_;  // of one listener
  const UniqueFd epoll_;
  const UniqueFd wake_;
  const std::function<void(core::Event)> post_;
  core::SocketId last_id_ = 0;
  bool paused_ = false;

  Mutex mutex_;
  std::map<core::SocketId, Connection> connections_ KVS_GUARDED_BY(mutex_);  // inserted and erased by our thread only

  std::thread thread_;
};

}  // namespace kvsteward::rpc
