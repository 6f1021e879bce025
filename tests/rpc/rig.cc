#include "tests/rpc/rig.h"

#include <chrono>
#include <cstdlib>
#include <thread>

#include "grpcpp/create_channel.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::rpc {
namespace {

const telemetry::Identity kIdentity = {"1.2.3", "host", "memfd"};

std::shared_ptr<grpc::Channel> NewChannel(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetMaxSendMessageSize(-1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

}  // namespace

Rig::Rig(const RigOptions& options)
    : answers_(options.answers),
      memory_(memory::NewHostBackend(), memory::NewHostBackend(), options.arena_bytes),
      device_(engine::NewHostEngine(2), options.longest_wait),
      metrics_(kIdentity) {
  setenv("KVSTEWARD_CHECK", "1", 1);
  core::Config config;
  config.arena_bytes = options.arena_bytes;
  config.extent_bytes = options.extent_bytes;
  config.table_chunk_bytes = 64u << 10;
  config.first_epoch = 1000;
  config.max_leases_per_tenant = options.leases;
  config.tenants = {{"t", options.arena_bytes, std::make_shared<const engine::Policy>(*engine::Preset("snapkv"))}};
  steward_ = std::make_unique<steward::Steward>(config, memory_, device_);
  fd_socket_ = *FdSocket::Listen({{"t", fd_path()}}, options.leases,
                                 [this](core::Event event) { steward_->Post(std::move(event)); });
  steward_->set_socket_port(fd_socket_.get());
  if (answers_) steward_->Start();
  fd_socket_->Start();
  ServerOptions server;
  server.address = address();
  server.admin = "unix:" + dir_ / "a.sock";
  server.message_bytes = options.message_bytes;
  server.identity = kIdentity;
  server.drain = [this] { ++drains_asked_; };
  server_ = *Server::Start(server, *steward_, metrics_);
}

Rig::~Rig() {
  if (answers_) steward_->Stop();
  server_.reset();
  fd_socket_.reset();
}

std::unique_ptr<v1::Steward::Stub> Rig::Workers() const { return v1::Steward::NewStub(NewChannel(address())); }
std::unique_ptr<v1::Admin::Stub> Rig::Admin() const {
  return v1::Admin::NewStub(NewChannel("unix:" + dir_ / "a.sock"));
}

v1::GetStatusResponse Rig::GetStatus() const {
  v1::GetStatusResponse response;
  const grpc::Status status = Admin()->GetStatus(Context().get(), {}, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  const v1::Ledger& ledger = response.ledger();
  EXPECT_EQ(ledger.arena_bytes(), ledger.free_bytes() + ledger.used_bytes() + ledger.metadata_bytes() +
                                      ledger.reserved_bytes() + ledger.quarantined_bytes());
  return response;
}

v1::GetStatusResponse Rig::AwaitNoLeases() const {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  for (;;) {
    v1::GetStatusResponse status = GetStatus();
    if (status.leases().empty()) return status;
    if (std::chrono::steady_clock::now() > deadline) {
      ADD_FAILURE() << "leases are left after half a minute: " << status.ShortDebugString();
      return status;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

std::unique_ptr<grpc::ClientContext> Context() {
  auto context = std::make_unique<grpc::ClientContext>();
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
  return context;
}

}  // namespace kvsteward::rpc
