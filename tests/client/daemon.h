// A real `kvsteward serve` as a child process, on sockets in a temporary directory.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kvsteward/client.h"
#include "kvsteward/v1/admin.grpc.pb.h"

namespace kvsteward::testing {

struct DaemonConfig {
  uint64_t arena_bytes = 256u << 20;
  uint64_t extent_bytes = 1u << 20;
  struct Tenant {
    std::string name;
    uint64_t hard_limit_bytes;
  };
  std::vector<Tenant> tenants = {{"red", 128u << 20}, {"blue", 64u << 20}};
};

class Daemon {
 public:
  // Starts it and waits until it serves.
  explicit Daemon(const DaemonConfig& config = {});
  ~Daemon();  // kills it
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;

  void Start();
  // Sends a signal and waits for the end; the status as of waitpid(2).
  int End(int signal_number);

  pid_t pid() const { return pid_; }
  std::string address() const { return "unix:" + directory_ + "/kvsteward.sock"; }
  std::string fd_socket(const std::string& tenant) const { return directory_ + "/" + tenant + ".fd.sock"; }

  v1::GetStatusResponse Status() const;
  // Until the status is as wanted; the last one, which is not if 30 seconds did not suffice.
  v1::GetStatusResponse Await(const std::function<bool(const v1::GetStatusResponse&)>& wanted) const;
  // Memory objects that the process has mapped or open.
  size_t MemoryObjects() const;

 private:
  std::string directory_;
  pid_t pid_ = -1;
  std::unique_ptr<v1::Admin::Stub> admin_;
};

// P8: every byte is in one state.
bool Exact(const v1::Ledger& ledger);

// Starts a program with its standard output to `stdout_fd` (-1: ours).
pid_t Spawn(const std::vector<std::string>& arguments, int stdout_fd = -1);
// waitpid(2)'s status.
int Wait(pid_t pid);

}  // namespace kvsteward::testing
