// The daemon's configuration: one YAML file in which every key has a default. An environment variable overrides a
// single key: KVSTEWARD_ and the key's path in capitals, dots as underscores (KVSTEWARD_ARENA_BYTES for arena.bytes).
// Tenants have no variables. Plain values.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace kvsteward::app {

struct TenantConfig {
  std::string name = "default";   // [a-z0-9-], at most 63
  std::string fd_socket;          // path; empty: DefaultFdSocket(name)
  uint64_t hard_limit_bytes = 0;  // of arena bytes, metadata included; 0: all of the arena
  std::string policy;             // a preset's name or a policy as YAML text; empty: eviction.default_policy
};

struct Config {
  struct Listen {
    std::string address = "unix:/run/kvsteward/kvsteward.sock";
    std::string admin = "unix:/run/kvsteward/admin.sock";
  } listen;
  struct Device {
    std::string kind = "auto";  // "host", "cuda"; "auto": CUDA if there is a device, else the host
    std::string uuid;           // of a CUDA device; empty: the only one
    int64_t threads = 0;        // of the host's engine; 0: one per core
  } device;
  struct Arena {
    uint64_t bytes = 1ull << 30;
    uint64_t extent_bytes = 64ull << 20;
    uint64_t table_chunk_bytes = 1ull << 20;
    int64_t compaction_reserve_ppm = 10'000;  // written as a fraction: 0.01
  } arena;
  struct Eviction {
    std::string default_policy = "ahakv-ada";  // of tenants that have none of their own; likewise
  } eviction;
  struct Limits {
    int64_t leases = 256;  // of one tenant
    int64_t sequences_per_lease = 65'536;
    int64_t queued_evicts_per_lease = 8;
    uint64_t message_bytes = 4ull << 20;
    int64_t drain_seconds = 30;
  } limits;
  struct Telemetry {
    std::string log_level = "info";
    std::string metrics_address;  // host:port; empty: off
  } telemetry;
  std::vector<TenantConfig> tenants;  // never empty once loaded
};

// Where a tenant's fd socket is unless the configuration says otherwise.
std::string DefaultFdSocket(const std::string& tenant);

// Like getenv.
using Environment = std::function<const char*(const char* name)>;

// Reads `text`, which `name` stands for in messages, then the environment, fills in what depends on other keys and
// checks everything. INVALID_ARGUMENT in one sentence that names the line or variable, the key, its value and what is
// allowed; unknown keys and keys given twice are refused.
absl::StatusOr<Config> LoadConfig(const std::string& text, const std::string& name, const Environment& environment);

// The effective configuration; LoadConfig of it is the same again.
std::string ConfigToYaml(const Config& config);

}  // namespace kvsteward::app
