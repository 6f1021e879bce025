#include "tests/client/daemon.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "grpcpp/create_channel.h"
#include "gtest/gtest.h"

extern char** environ;

namespace kvsteward::testing {
namespace {

constexpr std::chrono::seconds kPatience{30};

}  // namespace

Daemon::Daemon(const DaemonConfig& config) {
  std::string pattern = ::testing::TempDir() + "kvs-XXXXXX";
  EXPECT_NE(mkdtemp(pattern.data()), nullptr);
  directory_ = pattern;
  std::ofstream yaml(directory_ + "/config.yaml");
  yaml << "listen: {address: \"" << address() << "\", admin: \"unix:" << directory_ << "/admin.sock\"}\n"
       << "device: {kind: host, threads: 2}\n"
       << "arena: {bytes: " << config.arena_bytes << ", extent_bytes: " << config.extent_bytes << "}\n"
       << "telemetry: {log_level: warn}\n"
       << "tenants:\n";
  for (const DaemonConfig::Tenant& tenant : config.tenants) {
    yaml << "  - {name: " << tenant.name << ", fd_socket: \"" << fd_socket(tenant.name)
         << "\", hard_limit_bytes: " << tenant.hard_limit_bytes << "}\n";
  }
  yaml.close();
  Start();
}

Daemon::~Daemon() {
  if (pid_ > 0) End(SIGKILL);
  std::filesystem::remove_all(directory_);
}

void Daemon::Start() {
  pid_ = Spawn({KVSTEWARD_BINARY, "serve", "--config", directory_ + "/config.yaml"});
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 20);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 20);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 100);
  admin_ = v1::Admin::NewStub(
      grpc::CreateCustomChannel("unix:" + directory_ + "/admin.sock", grpc::InsecureChannelCredentials(), arguments));
  const v1::GetStatusResponse status = Await([](const v1::GetStatusResponse& s) { return s.epoch() != 0; });
  EXPECT_NE(status.epoch(), 0u) << "the daemon does not serve";
}

int Daemon::End(int signal_number) {
  EXPECT_EQ(kill(pid_, signal_number), 0);
  const int status = Wait(pid_);
  pid_ = -1;
  return status;
}

v1::GetStatusResponse Daemon::Status() const {
  grpc::ClientContext context;
  context.set_wait_for_ready(true);
  context.set_deadline(std::chrono::system_clock::now() + kPatience);
  v1::GetStatusResponse response;
  const grpc::Status status = admin_->GetStatus(&context, {}, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response;
}

v1::GetStatusResponse Daemon::Await(const std::function<bool(const v1::GetStatusResponse&)>& wanted) const {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  v1::GetStatusResponse status = Status();
  while (!wanted(status) && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    status = Status();
  }
  return status;
}

size_t Daemon::MemoryObjects() const {
  size_t count = 0;
  const std::string process = "/proc/" + std::to_string(pid_);
  std::ifstream maps(process + "/maps");
  for (std::string line; std::getline(maps, line);) count += line.find("memfd:") != std::string::npos;
  for (const auto& entry : std::filesystem::directory_iterator(process + "/fd")) {
    std::error_code gone;
    count += std::filesystem::read_symlink(entry.path(), gone).string().find("memfd:") != std::string::npos;
  }
  return count;
}

bool Exact(const v1::Ledger& ledger) {
  return ledger.free_bytes() + ledger.used_bytes() + ledger.metadata_bytes() + ledger.reserved_bytes() +
             ledger.quarantined_bytes() ==
         ledger.arena_bytes();
}

pid_t Spawn(const std::vector<std::string>& arguments, int stdout_fd) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  if (stdout_fd >= 0) posix_spawn_file_actions_adddup2(&actions, stdout_fd, STDOUT_FILENO);
  pid_t pid = -1;
  EXPECT_EQ(posix_spawn(&pid, argv[0], &actions, nullptr, argv.data(), environ), 0) << arguments[0];
  posix_spawn_file_actions_destroy(&actions);
  return pid;
}

int Wait(pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

}  // namespace kvsteward::testing
