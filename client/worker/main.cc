// kvsteward-worker: a reference decoder that keeps its KV cache in the sidecar's memory.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "client/worker/demo.h"
#include "client/worker/model.h"
#include "client/worker/task.h"

namespace {

using kvsteward::worker::DemoOptions;
using kvsteward::worker::Device;

absl::Status PrintArena(const std::string& path, Device device) {
  const auto model = kvsteward::worker::LoadModel(path);
  if (!model.ok()) return model.status();
  const auto task = kvsteward::worker::ParseTask(model->task, model->config.vocab);
  if (!task.ok()) return task.status();
  const auto arena = kvsteward::worker::ArenaFor(model->config, *task, device);
  std::fputs(kvsteward::worker::ArenaYaml(arena).c_str(), stdout);
  return absl::OkStatus();
}

int Exit(const absl::Status& status) {
  if (status.ok()) return EXIT_SUCCESS;
  std::fprintf(stderr, "kvsteward-worker: %s\n", std::string(status.message()).c_str());
  return EXIT_FAILURE;
}

void AddDevice(CLI::App& command, Device& device) {
  static const std::map<std::string, Device> kDevices = {{"host", Device::kHost}, {"cuda", Device::kCuda}};
  command.add_option("--device", device, "where the sidecar keeps caches and this worker attends: host or cuda")
      ->transform(CLI::CheckedTransformer(kDevices));
}

int Main(int argc, char** argv) {
  CLI::App app("A reference decoder that keeps its KV cache in the sidecar's memory.");
  app.require_subcommand(1);

  DemoOptions options;
  CLI::App* demo = app.add_subcommand("demo", "Measure what every policy keeps of a model's answers.");
  demo->add_option("--address", options.address, "the sidecar's address, e.g. unix:/run/kvsteward/kvsteward.sock")
      ->required();
  demo->add_option("--fd-socket", options.fd_socket, "path of the tenant's fd socket")->required();
  demo->add_option("--model", options.model, "weights as safetensors")->required();
  AddDevice(*demo, options.device);
  demo->add_option("--prompts", options.prompts, "prompts of each kind")->check(CLI::Range(1, 10000));
  demo->add_option("--out-json", options.out_json, "where to write the report as JSON");
  demo->add_option("--out-html", options.out_html, "where to write the report as HTML");

  std::string model;
  CLI::App* arena = app.add_subcommand("arena-config", "Print the arena section that the demo's sidecar needs.");
  arena->add_option("--model", model, "weights as safetensors")->required();
  Device device = Device::kHost;
  AddDevice(*arena, device);

  CLI11_PARSE(app, argc, argv);
  return Exit(demo->parsed() ? kvsteward::worker::RunDemo(options) : PrintArena(model, device));
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return Main(argc, argv);
  } catch (const std::exception& error) {  // of the libraries: CLI11's, std::bad_alloc
    std::fprintf(stderr, "kvsteward-worker: %s\n", error.what());
    return EXIT_FAILURE;
  }
}
