// The subcommands. Each returns the process's exit status: 0; 1 if it failed; 2 if what it was given is wrong.
#pragma once

#include <string>
#include <vector>

#include "app/config.h"

namespace kvsteward::app {

// serve: runs the daemon until a signal or an operator drains it. A second signal, or limits.drain_seconds over, ends
// the process at once with status 1. REQUIRES: no thread has been started.
int Serve(const Config& config);

// health: whether the daemon at `address` says that it serves workers.
int Health(const std::string& address);

struct StatusOptions {
  std::string address;  // of operators
  bool json = false;
  bool watch = false;  // again every second, until it fails
};
int Status(const StatusOptions& options);

struct ListTenantsOptions {
  std::string address;  // of operators
  bool json = false;
};
int ListTenants(const ListTenantsOptions& options);

struct SetTenantOptions {
  std::string address;  // of operators
  std::string tenant;
  std::string policy;  // a preset's name or a YAML file; empty: the configured one
};
int SetTenant(const SetTenantOptions& options);

// replay: a policy on recorded tensors, in this process or through a sidecar.
struct ReplayOptions {
  std::string input;
  std::string policy;  // a preset's name or a YAML file
  std::string budget;
  std::string output;   // empty: none is written
  std::string address;  // of a sidecar; empty: in this process
  std::string fd_socket;
};
int Replay(const ReplayOptions& options);

// policies: the named presets, or every one, as YAML, one document each.
int Policies(const std::vector<std::string>& names);

}  // namespace kvsteward::app
