#include "app/config.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cctype>
#include <set>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "app/settings.h"
#include "service/rpc/read_policy.h"
#include "service/rpc/server.h"
#include "service/rpc/socket_path.h"

namespace kvsteward::app {
namespace {

constexpr uint64_t kKiB = 1024;
constexpr uint64_t kMiB = 1024 * kKiB;
constexpr uint64_t kMaxArena = 1ull << 50;
constexpr size_t kMaxTenants = 256;

bool IsUnixAddress(const std::string& text) {
  const absl::StatusOr<std::string> path = rpc::UnixPath(text);
  return path.ok() && path->size() <= rpc::kMaxSocketPath;
}

bool IsPath(const std::string& text) {
  return !text.empty() && text[0] == '/' && text.size() <= rpc::kMaxSocketPath && text.find('\0') == std::string::npos;
}

bool IsTenantName(const std::string& text) {
  return !text.empty() && text.size() <= 63 &&
         text.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-") == std::string::npos;
}

// "GPU-" or "MIG-" and 32 hexadecimal digits in groups of 8, 4, 4, 4 and 12.
bool IsDeviceUuid(const std::string& text) {
  constexpr size_t kPrefix = 4;
  constexpr char kDigits[] = "00000000-0000-0000-0000-000000000000";
  if (text.empty()) return true;
  if (text.compare(0, kPrefix, "GPU-") != 0 && text.compare(0, kPrefix, "MIG-") != 0) return false;
  const auto same_kind = [](char c, char digit) {
    return digit == '-' ? c == '-' : std::isxdigit(static_cast<unsigned char>(c)) != 0;
  };
  return std::equal(text.begin() + kPrefix, text.end(), std::begin(kDigits), std::end(kDigits) - 1, same_kind);
}

bool IsMetricsAddress(const std::string& text) {
  const size_t colon = text.rfind(':');
  if (text.empty()) return true;
  return colon != std::string::npos && colon > 0 && colon + 1 < text.size() &&
         text.find_first_not_of("0123456789", colon + 1) == std::string::npos;
}

constexpr char kAllowedAddress[] = "unix: and an absolute path of at most 107 bytes without any of %?#,";

Setting PolicySetting(const std::string& key, std::string* field) {
  return LongTextSetting(key, field, "a preset that `kvsteward policies` lists, or a policy as YAML text",
                         [](const std::string& text) {
                           const absl::Status status = rpc::ReadPolicy(text).status();
                           if (status.ok()) return status;
                           return absl::InvalidArgumentError("is refused: " + std::string(status.message()));
                         });
}

// Every key but those of tenants.
std::vector<Setting> Settings(Config& config) {
  return {
      TextSetting("listen.address", &config.listen.address, kAllowedAddress, IsUnixAddress),
      TextSetting("listen.admin", &config.listen.admin, kAllowedAddress, IsUnixAddress),
      ChoiceSetting("device.kind", &config.device.kind, {"auto", "host", "cuda"}),
      TextSetting("device.uuid", &config.device.uuid,
                  "a UUID as `nvidia-smi -L` prints it, or empty for the only device", IsDeviceUuid),
      NumberSetting("device.threads", &config.device.threads, 0, 256),
      SizeSetting("arena.bytes", &config.arena.bytes, kMiB, kMaxArena),
      SizeSetting("arena.extent_bytes", &config.arena.extent_bytes, 64 * kKiB, 1ull << 40),
      SizeSetting("arena.table_chunk_bytes", &config.arena.table_chunk_bytes, 4 * kKiB, 1ull << 30),
      FractionSetting("arena.compaction_reserve", &config.arena.compaction_reserve_ppm),
      PolicySetting("eviction.default_policy", &config.eviction.default_policy),
      NumberSetting("limits.leases", &config.limits.leases, 1, 4096),
      NumberSetting("limits.sequences_per_lease", &config.limits.sequences_per_lease, 1, 1 << 20),
      NumberSetting("limits.queued_evicts_per_lease", &config.limits.queued_evicts_per_lease, 1, 4096),
      SizeSetting("limits.message_bytes", &config.limits.message_bytes, 64 * kKiB, 1ull << 30),
      NumberSetting("limits.drain_seconds", &config.limits.drain_seconds, 1, 3600),
      ChoiceSetting("telemetry.log_level", &config.telemetry.log_level,
                    {"trace", "debug", "info", "warn", "error", "off"}),
      TextSetting("telemetry.metrics_address", &config.telemetry.metrics_address, "host:port, or empty for no metrics",
                  IsMetricsAddress),
  };
}

std::vector<Setting> Settings(TenantConfig& tenant, const std::string& prefix) {
  return {
      TextSetting(prefix + "name", &tenant.name, "1 to 63 of a-z, 0-9 and -", IsTenantName),
      TextSetting(prefix + "fd_socket", &tenant.fd_socket, "an absolute path of at most 107 bytes", IsPath),
      SizeSetting(prefix + "hard_limit_bytes", &tenant.hard_limit_bytes, kMiB, kMaxArena),
      PolicySetting(prefix + "policy", &tenant.policy),
  };
}

absl::Status Wrong(const std::string& what) { return absl::InvalidArgumentError(what); }

absl::Status Apply(const Setting& setting, const std::string& name, const std::string& value) {
  const absl::Status status = setting.set(value);
  return status.ok() ? status : Wrong(name + " " + std::string(status.message()));
}

// "one, two"
void AddToList(std::string& list, const std::string& item) {
  if (!list.empty()) list += ", ";
  list += item;
}

// "file.yaml:3: "
std::string Where(const std::string& name, const YAML::Mark& mark) {
  return name + ":" + std::to_string(mark.line + 1) + ": ";
}

// Applies a mapping to the settings whose keys are `prefix` and one of the mapping's.
absl::Status ApplyMapping(const YAML::Node& node, const std::string& prefix, const std::vector<Setting>& settings,
                          const std::string& name) {
  if (node.IsNull()) return absl::OkStatus();
  if (!node.IsMap()) return Wrong(Where(name, node.Mark()) + prefix + " must be a mapping of keys to values");
  std::set<std::string> seen;
  for (const auto& entry : node) {
    const std::string where = Where(name, entry.first.Mark());
    const std::string key = prefix + (entry.first.IsScalar() ? entry.first.Scalar() : "?");
    const auto setting = std::find_if(settings.begin(), settings.end(), [&](const Setting& s) { return s.key == key; });
    if (setting == settings.end()) {
      std::string known;
      for (const Setting& each : settings) {
        if (each.key.compare(0, prefix.size(), prefix) == 0) AddToList(known, each.key);
      }
      return Wrong(absl::StrCat(where, "there is no key ", key, "; choose one of ", known));
    }
    if (!seen.insert(key).second) return Wrong(where + key + " is given twice; keep one");
    if (!entry.second.IsScalar()) return Wrong(where + key + " must be one value; it must be " + setting->allowed);
    if (absl::Status s = Apply(*setting, where + key, entry.second.Scalar()); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::Status ApplyTenants(const YAML::Node& node, const std::string& name, std::vector<TenantConfig>& tenants) {
  if (!node.IsSequence() || node.size() == 0 || node.size() > kMaxTenants) {
    return Wrong(Where(name, node.Mark()) + "tenants must be a list of 1 to " + std::to_string(kMaxTenants) +
                 " tenants");
  }
  for (size_t i = 0; i < node.size(); ++i) {
    const std::string prefix = "tenants[" + std::to_string(i) + "].";
    TenantConfig tenant;
    if (!node[i].IsMap() || !node[i]["name"]) return Wrong(Where(name, node[i].Mark()) + prefix + "name is missing");
    if (absl::Status s = ApplyMapping(node[i], prefix, Settings(tenant, prefix), name); !s.ok()) return s;
    tenants.push_back(std::move(tenant));
  }
  return absl::OkStatus();
}

absl::Status ApplyFile(const YAML::Node& root, const std::string& name, Config& config) {
  if (root.IsNull()) return absl::OkStatus();
  if (!root.IsMap()) return Wrong(Where(name, root.Mark()) + "the configuration must be a mapping of sections");
  const std::vector<Setting> settings = Settings(config);
  std::set<std::string> sections = {"tenants"};
  for (const Setting& setting : settings) sections.insert(setting.key.substr(0, setting.key.find('.')));
  std::set<std::string> seen;
  for (const auto& entry : root) {
    const std::string where = Where(name, entry.first.Mark());
    const std::string section = entry.first.IsScalar() ? entry.first.Scalar() : "?";
    if (!sections.contains(section)) {
      std::string known;
      for (const std::string& each : sections) AddToList(known, each);
      return Wrong(absl::StrCat(where, "there is no section ", section, "; choose one of ", known));
    }
    if (!seen.insert(section).second)
      return Wrong(absl::StrCat(where, "the section ", section, " is given twice; join them"));
    absl::Status s = section == "tenants" ? ApplyTenants(entry.second, name, config.tenants)
                                          : ApplyMapping(entry.second, section + ".", settings, name);
    if (!s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::Status ApplyEnvironment(const Environment& environment, Config& config) {
  for (const Setting& setting : Settings(config)) {
    std::string variable = "KVSTEWARD_" + setting.key;
    for (char& c : variable) c = c == '.' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    if (const char* value = environment(variable.c_str()); value != nullptr) {
      if (absl::Status s = Apply(setting, variable, value); !s.ok()) return s;
    }
  }
  return absl::OkStatus();
}

void FillIn(Config& config) {
  if (config.device.threads == 0)
    config.device.threads = std::clamp<int64_t>(std::thread::hardware_concurrency(), 1, 256);
  if (config.tenants.empty()) config.tenants.emplace_back();
  for (TenantConfig& tenant : config.tenants) {
    if (tenant.fd_socket.empty()) tenant.fd_socket = DefaultFdSocket(tenant.name);
    if (tenant.hard_limit_bytes == 0) tenant.hard_limit_bytes = config.arena.bytes;
    if (tenant.policy.empty()) tenant.policy = config.eviction.default_policy;
  }
}

// What concerns several keys at once.
absl::Status Check(const std::string& name, const Config& config) {
  if (config.arena.extent_bytes > config.arena.bytes) {
    return Wrong(name + ": arena.extent_bytes is " + std::to_string(config.arena.extent_bytes) +
                 "; it must be at most arena.bytes, " + std::to_string(config.arena.bytes));
  }
  if (config.device.kind == "host" && !config.device.uuid.empty()) {
    return Wrong(name + ": device.uuid is \"" + config.device.uuid +
                 "\" and device.kind is host; leave one of them out");
  }
  std::set<std::string> names;
  std::set<std::string> paths = {*rpc::UnixPath(config.listen.address)};
  if (!paths.insert(*rpc::UnixPath(config.listen.admin)).second) {
    return Wrong(name + ": listen.admin is the same socket as listen.address; choose another path");
  }
  for (size_t i = 0; i < config.tenants.size(); ++i) {
    const TenantConfig& tenant = config.tenants[i];
    const std::string prefix = name + ": tenants[" + std::to_string(i) + "].";
    if (!names.insert(tenant.name).second) {
      return Wrong(prefix + "name is \"" + tenant.name + "\" once more; every tenant needs a name of its own");
    }
    if (!paths.insert(tenant.fd_socket).second) {
      return Wrong(prefix + "fd_socket is \"" + tenant.fd_socket +
                   "\" once more; every socket needs a path of its own");
    }
    if (tenant.hard_limit_bytes > config.arena.bytes) {
      return Wrong(prefix + "hard_limit_bytes is " + std::to_string(tenant.hard_limit_bytes) +
                   "; it must be at most arena.bytes, " + std::to_string(config.arena.bytes));
    }
  }
  return absl::OkStatus();
}

void Emit(YAML::Emitter& out, const std::vector<Setting>& settings) {
  for (const Setting& setting : settings) {
    out << YAML::Key << setting.key.substr(setting.key.rfind('.') + 1) << YAML::Value << setting.get();
  }
}

}  // namespace

std::string DefaultFdSocket(const std::string& tenant) { return "/run/kvsteward/" + tenant + ".fd.sock"; }

absl::StatusOr<Config> LoadConfig(const std::string& text, const std::string& name, const Environment& environment) {
  Config config;
  try {
    if (absl::Status s = ApplyFile(YAML::Load(text), name, config); !s.ok()) return s;
  } catch (const YAML::Exception& error) {
    return Wrong(Where(name, error.mark) + "this is no YAML: " + error.msg);
  }
  if (absl::Status s = ApplyEnvironment(environment, config); !s.ok()) return s;
  FillIn(config);
  if (absl::Status s = Check(name, config); !s.ok()) return s;
  return config;
}

std::string ConfigToYaml(const Config& config) {
  Config copy = config;
  YAML::Emitter out;
  out << YAML::BeginMap;
  const std::vector<Setting> settings = Settings(copy);
  for (auto begin = settings.begin(); begin != settings.end();) {
    const std::string section = begin->key.substr(0, begin->key.find('.'));
    const auto end = std::find_if(begin, settings.end(), [&](const Setting& setting) {
      return setting.key.compare(0, section.size() + 1, section + ".") != 0;
    });
    out << YAML::Key << section << YAML::Value << YAML::BeginMap;
    Emit(out, std::vector<Setting>(begin, end));
    out << YAML::EndMap;
    begin = end;
  }
  out << YAML::Key << "tenants" << YAML::Value << YAML::BeginSeq;
  for (TenantConfig& tenant : copy.tenants) {
    out << YAML::BeginMap;
    Emit(out, Settings(tenant, ""));
    out << YAML::EndMap;
  }
  out << YAML::EndSeq << YAML::EndMap;
  return std::string(out.c_str()) + "\n";
}

}  // namespace kvsteward::app
