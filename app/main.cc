// kvsteward: one executable, a subcommand each. The command line is read here and nowhere else.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "app/commands.h"
#include "app/config.h"
#include "app/read_file.h"

namespace kvsteward::app {
namespace {

constexpr int kWrongUsage = 2;

struct ServeOptions {
  std::string config;
  bool print_config = false;
};

int ServeCommand(const ServeOptions& options) {
  std::string text;
  if (!options.config.empty()) {
    absl::StatusOr<std::string> file = ReadFile(options.config);
    if (!file.ok()) {
      std::fprintf(stderr, "kvsteward: the configuration %s\n", std::string(file.status().message()).c_str());
      return kWrongUsage;
    }
    text = *std::move(file);
  }
  const absl::StatusOr<Config> config = LoadConfig(text, options.config, std::getenv);
  if (!config.ok()) {
    std::fprintf(stderr, "kvsteward: %s\n", std::string(config.status().message()).c_str());
    return kWrongUsage;
  }
  if (options.print_config) {
    std::fputs(ConfigToYaml(*config).c_str(), stdout);
    return 0;
  }
  return Serve(*config);
}

// REQUIRES: no thread has been started.
int Main(int argc, char** argv) {
  // gRPC's own log lines would stand between ours; GRPC_VERBOSITY brings them back.
  setenv("GRPC_VERBOSITY", "NONE", 0);
  CLI::App app("kvsteward: a sidecar that owns and evicts the KV cache memory of LLM workers", "kvsteward");
  app.require_subcommand(0, 1);
  const Config defaults;
  int exit_status = 0;

  ServeOptions serve;
  CLI::App* command = app.add_subcommand("serve", "Run the daemon");
  command->add_option("--config", serve.config, "The configuration, YAML; every key has a default");
  command->add_flag("--print-config", serve.print_config, "Print the effective configuration and end");
  command->callback([&] { exit_status = ServeCommand(serve); });

  std::string address = defaults.listen.address;
  command = app.add_subcommand("health", "Ask whether a daemon serves workers: exit 0 if so, else 1");
  command->add_option("--address", address, "Where it serves workers")
      ->capture_default_str()
      ->envname("KVSTEWARD_LISTEN_ADDRESS");
  command->callback([&] { exit_status = Health(address); });

  const auto add_admin_address = [&](std::string& field) {
    field = defaults.listen.admin;
    command->add_option("--address", field, "Where it serves operators")
        ->capture_default_str()
        ->envname("KVSTEWARD_LISTEN_ADMIN");
  };
  StatusOptions status;
  command = app.add_subcommand("status", "Show a daemon's arena, tenants and leases");
  add_admin_address(status.address);
  command->add_flag("--json", status.json, "As JSON");
  command->add_flag("--watch", status.watch, "Again every second");
  command->callback([&] { exit_status = Status(status); });

  CLI::App* tenants = app.add_subcommand("tenants", "List or change a daemon's tenants");
  tenants->require_subcommand(1);
  ListTenantsOptions list;
  command = tenants->add_subcommand("list", "Show every tenant, with the policy of its calls that name none");
  add_admin_address(list.address);
  command->add_flag("--json", list.json, "As JSON, policies in full");
  command->callback([&] { exit_status = ListTenants(list); });
  SetTenantOptions set;
  command = tenants->add_subcommand("set", "Change a tenant until the daemon ends");
  add_admin_address(set.address);
  command->add_option("name", set.tenant, "The tenant")->required();
  command
      ->add_option("--policy", set.policy,
                   "Of its calls that name none: a preset's name or a YAML file, or \"\" for the configured one")
      ->required();
  command->callback([&] { exit_status = SetTenant(set); });

  ReplayOptions replay;
  command = app.add_subcommand("replay", "Run a policy on recorded tensors");
  command->add_option("input", replay.input, "Recorded tensors, safetensors")->required();
  command->add_option("--policy", replay.policy, "A preset's name or a YAML file")->required();
  command->add_option("--budget", replay.budget, "Tokens kept per kv head, N, or P%, or bytes such as 64MiB")
      ->required();
  command->add_option("--out", replay.output, "Where the plan is written, safetensors");
  CLI::Option* sidecar = command->add_option("--address", replay.address, "Through the sidecar there: its address");
  replay.fd_socket = DefaultFdSocket(TenantConfig().name);
  command->add_option("--fd-socket", replay.fd_socket, "and a tenant's fd socket")
      ->capture_default_str()
      ->needs(sidecar);
  command->callback([&] { exit_status = Replay(replay); });

  std::vector<std::string> policies;
  command = app.add_subcommand("policies", "Print presets as YAML");
  command->add_option("name", policies, "Which ones; every one if none is named");
  command->callback([&] { exit_status = Policies(policies); });

  command = app.add_subcommand("version", "Print the version");
  command->callback([] { std::puts(KVSTEWARD_VERSION); });

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kWrongUsage;
  }
  if (app.get_subcommands().empty()) std::fputs(app.help().c_str(), stdout);
  return exit_status;
}

}  // namespace
}  // namespace kvsteward::app

int main(int argc, char** argv) {
  try {
    return kvsteward::app::Main(argc, argv);
  } catch (const std::exception& error) {  // of the standard library: no memory, no threads
    std::fprintf(stderr, "kvsteward: %s\n", error.what());
    return 1;
  }
}
