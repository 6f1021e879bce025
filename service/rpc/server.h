// The two gRPC servers: one for workers, with health and reflection, and one for operators. Thread-compatible.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "grpcpp/server.h"
#include "service/rpc/admin_service.h"
#include "service/rpc/socket_path.h"
#include "service/rpc/worker_service.h"
#include "service/steward/steward.h"
#include "service/telemetry/metrics.h"

namespace kvsteward::rpc {

struct ServerOptions {
  std::string address;          // of workers: "unix:/run/kvsteward/kvsteward.sock"
  std::string admin;            // of operators, likewise
  int message_bytes = 4 << 20;  // most bytes of a request
  telemetry::Identity identity;
  std::function<void()> drain;  // an operator asks for it; must not block
};

// The path of a "unix:PATH" address. INVALID_ARGUMENT for any other, for a relative one, and for characters that gRPC
// takes for more than themselves.
absl::StatusOr<std::string> UnixPath(const std::string& address);

class Server {
 public:
  // Serves from now on; health says SERVING. Steward and metrics must outlive the server; the steward has been
  // started.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options, steward::Steward& steward,
                                                       telemetry::Metrics& metrics);
  ~Server();  // shuts down

  // Health says NOT_SERVING from now on; calls go on.
  void SetNotServing();
  // Takes no more calls, waits for those that run until the deadline and then cancels them. Idempotent.
  void Shutdown(std::chrono::system_clock::time_point deadline);

 private:
  Server(const ServerOptions& options, steward::Steward& steward, telemetry::Metrics& metrics, SocketPath workers_path,
         SocketPath admin_path);

  SocketPath workers_path_;
  SocketPath admin_path_;
  WorkerService worker_service_;
  AdminService admin_service_;
  std::unique_ptr<grpc::Server> workers_;
  std::unique_ptr<grpc::Server> admin_;
};

}  // namespace kvsteward::rpc
