#include "app/config.h"

#include <map>
#include <string>
#include <vector>

#include "app/bytes.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kvsteward::app {
namespace {

using ::testing::HasSubstr;

using Variables = std::map<std::string, std::string>;

absl::StatusOr<Config> Load(const std::string& text, const Variables& variables = {}) {
  return LoadConfig(text, "kv.yaml", [&](const char* name) -> const char* {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

TEST(ConfigTest, EveryKeyHasADefault) {
  for (const std::string text : {"", "# nothing\n", "arena:\nlimits:\n", "{}"}) {
    const absl::StatusOr<Config> config = Load(text);
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->arena.bytes, 1ull << 30);
    EXPECT_GE(config->device.threads, 1);
    ASSERT_EQ(config->tenants.size(), 1u);
    EXPECT_EQ(config->tenants[0].name, "default");
    EXPECT_EQ(config->tenants[0].fd_socket, "/run/kvsteward/default.fd.sock");
    EXPECT_EQ(config->tenants[0].hard_limit_bytes, 1ull << 30);
  }
}

// Every key, none with its default.
constexpr char kAll[] = R"(listen:
  address: unix:/a/w.sock
  admin: unix:/a/a.sock
device:
  kind: cuda
  uuid: GPU-01234567-89ab-cdef-0123-456789abcdef
  threads: 3
arena:
  bytes: 96MiB
  extent_bytes: 1MiB
  table_chunk_bytes: 8KiB
  compaction_reserve: 0.025
eviction:
  default_policy: snapkv
limits:
  leases: 7
  sequences_per_lease: 8
  queued_evicts_per_lease: 9
  message_bytes: 1MiB
  drain_seconds: 11
telemetry:
  log_level: warn
  metrics_address: 127.0.0.1:9100
tenants:
  - name: red
    fd_socket: /a/red.sock
    hard_limit_bytes: 32MiB
    policy: h2o
  - name: blue
    fd_socket: /a/blue.sock
    hard_limit_bytes: 64MiB
    policy: "{name: mine, signal: none}"
)";

TEST(ConfigTest, WhatIsPrintedIsWhatWasRead) {
  const absl::StatusOr<Config> config = Load(kAll);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(ConfigToYaml(*config), kAll);
  const std::string defaults = ConfigToYaml(*Load(""));
  EXPECT_EQ(ConfigToYaml(*Load(defaults)), defaults);
}

TEST(ConfigTest, ATenantsPolicyIsTheDefaultUnlessItHasItsOwn) {
  const absl::StatusOr<Config> config = Load(
      "eviction: {default_policy: snapkv}\n"
      "tenants:\n  - name: red\n  - name: blue\n    policy: |\n      name: mine\n      signal: none\n");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->tenants[0].policy, "snapkv");
  EXPECT_EQ(config->tenants[1].policy, "name: mine\nsignal: none\n");
  const absl::StatusOr<Config> again = Load(ConfigToYaml(*config));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->tenants[1].policy, config->tenants[1].policy);
  EXPECT_EQ(Load("", {{"KVSTEWARD_EVICTION_DEFAULT_POLICY", "h2o"}})->tenants[0].policy, "h2o");
}

TEST(ConfigTest, VariablesOverrideSingleKeys) {
  const absl::StatusOr<Config> config = Load(kAll, {{"KVSTEWARD_ARENA_BYTES", "128MiB"},
                                                    {"KVSTEWARD_ARENA_COMPACTION_RESERVE", "0"},
                                                    {"KVSTEWARD_TELEMETRY_METRICS_ADDRESS", ""},
                                                    {"KVSTEWARD_SERVICE_HOST", "10.0.0.1"}});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->arena.bytes, 128u << 20);
  EXPECT_EQ(config->arena.compaction_reserve_ppm, 0);
  EXPECT_EQ(config->telemetry.metrics_address, "");
  EXPECT_EQ(config->arena.extent_bytes, 1u << 20);
  EXPECT_EQ(Load("", {{"KVSTEWARD_ARENA_BYTES", "lots"}}).status().message(),
            "KVSTEWARD_ARENA_BYTES is \"lots\"; it must be a size such as 64MiB, from 1MiB to 1024TiB");
}

struct Refused {
  std::string text;
  std::string says;
};

TEST(ConfigTest, WhatIsWrongIsNamedWithItsLine) {
  const std::vector<Refused> cases = {
      {"arena: {bytes: 1MiB\n", "kv.yaml:2: this is no YAML: "},
      {"a\nb: c: d\n", "this is no YAML: "},
      {"[]", "kv.yaml:1: the configuration must be a mapping of sections"},
      {"\narenas: {}\n",
       "kv.yaml:2: there is no section arenas; choose one of arena, device, eviction, limits, listen, "
       "telemetry, tenants"},
      {"arena: {}\narena: {}\n", "kv.yaml:2: the section arena is given twice; join them"},
      {"arena: 5\n", "kv.yaml:1: arena. must be a mapping of keys to values"},
      {"arena:\n  byte: 1\n",
       "kv.yaml:2: there is no key arena.byte; choose one of arena.bytes, arena.extent_bytes, "
       "arena.table_chunk_bytes, arena.compaction_reserve"},
      {"arena:\n  bytes: 1GiB\n  bytes: 1GiB\n", "kv.yaml:3: arena.bytes is given twice; keep one"},
      {"arena:\n  bytes: [1]\n", "kv.yaml:2: arena.bytes must be one value; it must be a size such as 64MiB"},
      {"arena:\n  bytes: 1023KiB\n",
       "kv.yaml:2: arena.bytes is \"1023KiB\"; it must be a size such as 64MiB, from 1MiB"},
      {"arena: {bytes: 64MB}", "arena.bytes is \"64MB\""},
      {"arena: {bytes: -1}", "arena.bytes is \"-1\""},
      {"arena: {bytes: 9999999999TiB}", "arena.bytes is \"9999999999TiB\""},
      {"arena: {bytes: 99999999999999999999999}", "arena.bytes is"},
      {"arena: {bytes: }", "arena.bytes must be one value"},
      {"arena: {bytes: 1MiB, extent_bytes: 2MiB}", "arena.extent_bytes is 2097152; it must be at most arena.bytes"},
      {"arena: {compaction_reserve: 1}", "arena.compaction_reserve is \"1\"; it must be a fraction such as 0.01"},
      {"arena: {compaction_reserve: 0.0000001}", "arena.compaction_reserve is"},
      {"arena: {compaction_reserve: 0.0x1}", "arena.compaction_reserve is"},
      {"device: {kind: gpu}", "device.kind is \"gpu\"; it must be auto or host or cuda"},
      {"device: {uuid: GPU-1}", "device.uuid is \"GPU-1\"; it must be a UUID as `nvidia-smi -L` prints it"},
      {"device: {uuid: gpu-00000000-1111-2222-3333-444444444444}", "device.uuid is"},
      {"device: {kind: host, uuid: GPU-00000000-aAfF-2222-3333-444444444444}",
       "device.uuid is \"GPU-00000000-aAfF-2222-3333-444444444444\" and device.kind is host; leave one of them out"},
      {"device: {threads: 257}", "device.threads is \"257\"; it must be a number from 0 to 256"},
      {"device: {threads: 1.5}", "device.threads is \"1.5\""},
      {"eviction: {default_policy: nothing}",
       "kv.yaml:1: eviction.default_policy is refused: there is no policy 'nothing'"},
      {"eviction:\n  default_policy: |\n    name: mine\n    signal: guess\n",
       "kv.yaml:2: eviction.default_policy is refused: policy line 2: signal is 'guess'"},
      {"eviction: {default_policy: [snapkv]}", "eviction.default_policy must be one value; it must be a preset"},
      {"tenants:\n  - name: a\n    policy: best\n",
       "kv.yaml:3: tenants[0].policy is refused: there is no policy 'best'"},
      {"tenants: [{name: a}, {name: b, fd_socket: /b, policy: \"{name: x, head: best}\"}]",
       "tenants[1].policy is refused: policy line 1: head"},
      {"tenants: [{name: a, policy: \"{name: x, select: block}\"}]",
       "tenants[0].policy is refused: head is uniform; it must be ada_floor"},
      {"tenants: [{name: a, policy: \"\"}]", "tenants[0].policy is refused: "},
      {"limits: {leases: 0}", "limits.leases is \"0\"; it must be a number from 1 to 4096"},
      {"limits: {drain_seconds: 0}", "limits.drain_seconds is \"0\""},
      {"limits: {message_bytes: 1KiB}", "limits.message_bytes is \"1KiB\""},
      {"listen: {address: localhost:80}", "listen.address is \"localhost:80\"; it must be unix: and an absolute path"},
      {"listen: {address: unix:relative}", "listen.address is"},
      {"listen: {address: unix:/" + std::string(107, 'x') + "}", "listen.address is"},
      {"listen: {address: unix:/x, admin: unix:/x}", "listen.admin is the same socket as listen.address"},
      {"telemetry: {log_level: loud}", "telemetry.log_level is \"loud\"; it must be trace or debug or info"},
      {"telemetry: {metrics_address: nowhere}", "telemetry.metrics_address is \"nowhere\"; it must be host:port"},
      {"tenants: {}", "tenants must be a list of 1 to 256 tenants"},
      {"tenants: []", "tenants must be a list of 1 to 256 tenants"},
      {"tenants:\n  - fd_socket: /a\n", "kv.yaml:2: tenants[0].name is missing"},
      {"tenants: [{name: A}]", "tenants[0].name is \"A\"; it must be 1 to 63 of a-z, 0-9 and -"},
      {"tenants: [{name: a, size: 1}]", "there is no key tenants[0].size; choose one of tenants[0].name"},
      {"tenants: [{name: a, fd_socket: x}]", "tenants[0].fd_socket is \"x\"; it must be an absolute path"},
      {"tenants: [{name: a}, {name: a, fd_socket: /x}]", "tenants[1].name is \"a\" once more"},
      {"tenants: [{name: a, fd_socket: /x}, {name: b, fd_socket: /x}]", "tenants[1].fd_socket is \"/x\" once more"},
      {"tenants: [{name: a, hard_limit_bytes: 2GiB}]", "tenants[0].hard_limit_bytes is 2147483648; it must be at most"},
  };
  for (const Refused& each : cases) {
    const absl::StatusOr<Config> config = Load(each.text);
    EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument) << each.text;
    EXPECT_THAT(std::string(config.status().message()), HasSubstr(each.says)) << each.text;
  }
}

TEST(BytesTest, ReadsAndWritesSizes) {
  EXPECT_EQ(ParseBytes("0"), 0u);
  EXPECT_EQ(ParseBytes("17B"), 17u);
  EXPECT_EQ(ParseBytes("64 MiB"), 64u << 20);
  EXPECT_EQ(ParseBytes("4194304TiB"), 1ull << 62);
  for (const std::string text : {"", " ", "MiB", "1 ", "1.5MiB", "1mib", "1MiBs", "0x10", "+1", "4194305TiB"}) {
    EXPECT_EQ(ParseBytes(text), std::nullopt) << text;
  }
  EXPECT_EQ(ExactBytes(0), "0");
  EXPECT_EQ(ExactBytes(1023), "1023");
  EXPECT_EQ(ExactBytes(1536), "1536");
  EXPECT_EQ(ExactBytes(3u << 20), "3MiB");
  EXPECT_EQ(RoughBytes(1000), "1000 B");
  EXPECT_EQ(RoughBytes(1536), "1.50 KiB");
}

}  // namespace
}  // namespace kvsteward::app
