// A whole daemon in this process, on sockets in a directory of its own: what app/serve wires, without signals. It
// checks its books after every event (KVSTEWARD_CHECK=1).
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "gtest/gtest.h"
#include "kvsteward/engine/engine.h"
#include "kvsteward/v1/admin.grpc.pb.h"
#include "kvsteward/v1/steward.grpc.pb.h"
#include "service/device/device.h"
#include "service/memory/host_backend.h"
#include "service/memory/memory.h"
#include "service/rpc/fd_socket.h"
#include "service/rpc/server.h"
#include "service/steward/steward.h"
#include "tests/rpc/temp_dir.h"

namespace kvsteward::rpc {

struct RigOptions {
  uint64_t arena_bytes = 64u << 20;
  uint64_t extent_bytes = 1u << 20;
  uint32_t leases = 16;
  int message_bytes = 4 << 20;
  std::chrono::milliseconds longest_wait = device::Device::kLongestWait;  // for a ready word
  bool answers = true;  // false: the steward's loop does not run, so that no call is ever answered
};

// One tenant, "t", whose policy is `snapkv`.
class Rig {
 public:
  explicit Rig(const RigOptions& options = {});
  ~Rig();

  std::string fd_path() const { return dir_ / "t.sock"; }
  std::string address() const { return "unix:" + dir_ / "s.sock"; }
  std::unique_ptr<v1::Steward::Stub> Workers() const;
  std::unique_ptr<v1::Admin::Stub> Admin() const;
  Server& server() { return *server_; }
  steward::Steward& steward() { return *steward_; }
  telemetry::Metrics& metrics() { return metrics_; }
  int drains_asked() const { return drains_asked_; }

  // What GetStatus says; the ledger's parts must add up.
  v1::GetStatusResponse GetStatus() const;
  // Waits until no lease is left, and says what the books are then.
  v1::GetStatusResponse AwaitNoLeases() const;

 private:
  TempDir dir_;
  bool answers_;
  int drains_asked_ = 0;
  memory::Memory memory_;
  device::Device device_;
  telemetry::Metrics metrics_;
  std::unique_ptr<steward::Steward> steward_;
  std::unique_ptr<FdSocket> fd_socket_;
  std::unique_ptr<Server> server_;
};

// A context that gives up after half a minute.
std::unique_ptr<grpc::ClientContext> Context();

}  // namespace kvsteward::rpc
