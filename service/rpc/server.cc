#include "service/rpc/server.h"

#include <sys/socket.h>

#include <utility>

#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/resource_quota.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"

namespace kvsteward::rpc {
namespace {

// A worker may ping as often as this to find out that we are stuck.
constexpr int kMinPingMilliseconds = 5'000;
constexpr int kMaxStreamsPerConnection = 128;
// What gRPC may hold for all connections of a server, in messages of the largest size: those who send without end are
// slowed down before they cost memory.
constexpr size_t kQuotaMessages = 64;
constexpr char kStewardService[] = "kvsteward.v1.Steward";

absl::StatusOr<std::unique_ptr<grpc::Server>> Serve(grpc::Service& service, const SocketPath& path, mode_t mode,
                                                    int message_bytes) {
  grpc::ServerBuilder builder;
  int port = 0;
  // Who may connect is said by the socket's mode and, for workers, by the fd socket.
  builder.AddListeningPort("unix:" + path.path(), grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  builder.SetMaxReceiveMessageSize(message_bytes);
  builder.SetResourceQuota(
      grpc::ResourceQuota(path.path()).Resize(kQuotaMessages * static_cast<size_t>(message_bytes)));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxStreamsPerConnection);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kMinPingMilliseconds);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) return absl::UnavailableError("the socket " + path.path() + " cannot be served");
  if (absl::Status status = path.SetMode(mode); !status.ok()) return status;
  return server;
}

}  // namespace

absl::StatusOr<std::string> UnixPath(const std::string& address) {
  std::string path;
  if (address.rfind("unix:", 0) == 0) path = address.substr(5);
  if (path.rfind("///", 0) == 0) path = path.substr(2);
  if (path.empty() || path[0] != '/' || path.rfind("//", 0) == 0 || path.find_first_of("%?#,") != std::string::npos) {
    return absl::InvalidArgumentError("the address \"" + address +
                                      "\" must be unix: and an absolute path without any of %?#,");
  }
  return path;
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options, steward::Steward& steward,
                                                      telemetry::Metrics& metrics) {
  const absl::StatusOr<std::string> address = UnixPath(options.address);
  if (!address.ok()) return address.status();
  const absl::StatusOr<std::string> admin = UnixPath(options.admin);
  if (!admin.ok()) return admin.status();
  absl::StatusOr<SocketPath> workers_path = SocketPath::Claim(*address, SOCK_STREAM);
  if (!workers_path.ok()) return workers_path.status();
  absl::StatusOr<SocketPath> admin_path = SocketPath::Claim(*admin, SOCK_STREAM);
  if (!admin_path.ok()) return admin_path.status();

  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  std::unique_ptr<Server> server(
      new Server(options, steward, metrics, *std::move(workers_path), *std::move(admin_path)));
  absl::StatusOr<std::unique_ptr<grpc::Server>> admin_server =
      Serve(server->admin_service_, server->admin_path_, 0600, options.message_bytes);
  if (!admin_server.ok()) return admin_server.status();
  server->admin_ = *std::move(admin_server);
  absl::StatusOr<std::unique_ptr<grpc::Server>> workers =
      Serve(server->worker_service_, server->workers_path_, 0660, options.message_bytes);
  if (!workers.ok()) return workers.status();
  server->workers_ = *std::move(workers);
  server->workers_->GetHealthCheckService()->SetServingStatus(kStewardService, true);
  return server;
}

Server::Server(const ServerOptions& options, steward::Steward& steward, telemetry::Metrics& metrics,
               SocketPath workers_path, SocketPath admin_path)
    : workers_path_(std::move(workers_path)),
      admin_path_(std::move(admin_path)),
      worker_service_(steward, metrics, options.identity),
      admin_service_(steward, metrics, options.identity, options.drain) {}

Server::~Server() { Shutdown(std::chrono::system_clock::now()); }

void Server::SetNotServing() {
  workers_->GetHealthCheckService()->Shutdown();  // for every name, for good
}

void Server::Shutdown(std::chrono::system_clock::time_point deadline) {
  for (std::unique_ptr<grpc::Server>* server : {&workers_, &admin_}) {
    if (*server == nullptr) continue;
    (*server)->Shutdown(deadline);
    (*server)->Wait();
    server->reset();
  }
}

}  // namespace kvsteward::rpc
