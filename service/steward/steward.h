// The event loop: feeds events to core one at a time and carries out its effects. It holds the callbacks of calls that
// wait, and takes no decision. One thread runs the loop; every public function may be called from any thread.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "kvsteward/shm.h"
#include "service/core/core.h"

namespace kvsteward::device {
class Device;
}
namespace kvsteward::memory {
class Memory;
}

namespace kvsteward::steward {

// The fd socket as the steward sees it; rpc/ implements it. Neither call blocks.
class SocketPort {
 public:
  virtual ~SocketPort() = default;
  // Sends one message with one descriptor (the callee does not take ownership of `fd`). A peer that does not read loses
  // its connection.
  virtual void Send(core::SocketId socket, const kvs_fd_message& message, int fd) = 0;
  virtual void Close(core::SocketId socket, const std::string& reason) = 0;
};

class Steward {
 public:
  // Both callbacks run on the loop's thread and must not block. OnReply runs exactly once per call, unless the call was
  // cancelled before.
  using OnReply = std::function<void(const core::Outcome& outcome, const core::ReplyBody& body)>;
  using OnNotice = std::function<void(core::NoticeKind notice)>;

  // Memory and device must outlive the steward and be used by nobody else.
  Steward(core::Config config, memory::Memory& memory, device::Device& device);
  ~Steward();  // stops the loop
  Steward(const Steward&) = delete;
  Steward& operator=(const Steward&) = delete;

  // REQUIRES: before Start. The port must outlive the loop.
  void set_socket_port(SocketPort* port);
  // Called once, on the loop's thread, when core reports that a drain is complete.
  void set_on_drained(std::function<void()> on_drained);
  void Start();
  void Stop();  // idempotent; joins the loop

  // A call that will be answered: put the id into the event that asks, then Post it.
  core::CallId NewCall(OnReply on_reply, OnNotice on_notice = {});
  // The caller went away: its callbacks are dropped, once this returns they never run again; core is told.
  void CancelCall(core::CallId call);

  void Post(core::Event event);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvsteward::steward
