// kvsteward_bench: the host engine on 32 query heads on 8 kv heads of 128 numbers, window 32, bf16. Everything is
// compared with what bounds it, measured in turns within the same run. `--serve` times one scoring per line of input
// instead, so that bench.py can alternate it with NumPy.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <thread>

#include "nlohmann/json.hpp"
#include "tests/bench/sections.h"

namespace kvsteward::bench {
namespace {

int Usage(const char* name) {
  std::fprintf(stderr,
               "usage: %s [--only stages|presets|scaling|workspace] [--tokens N] [--threads N] [--rounds N]\n"
               "       [--json FILE] [--serve]\n",
               name);
  return 2;
}

int Main(int argc, char** argv) {
  Options options;
  options.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  std::string json;
  std::string only;
  bool serve = false;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--serve") {
      serve = true;
    } else if (i + 1 == argc) {
      return Usage(argv[0]);
    } else if (name == "--only") {
      only = argv[++i];
    } else if (name == "--json") {
      json = argv[++i];
    } else if (name == "--tokens") {
      options.tokens = std::max(1024, std::atoi(argv[++i]));
    } else if (name == "--threads") {
      options.threads = std::max(1, std::atoi(argv[++i]));
    } else if (name == "--rounds") {
      options.rounds = std::max(1, std::atoi(argv[++i]));
    } else {
      return Usage(argv[0]);
    }
  }
  if (serve) return Serve(options);

  nlohmann::json report = {{"tokens", options.tokens}, {"threads", options.threads}};
  const auto run = [&](const char* name, nlohmann::json (*section)(const Options&)) {
    if (only.empty() || only == name) report[name] = section(options);
  };
  run("stages", MeasureStages);
  run("presets", MeasurePresets);
  run("scaling", MeasureScaling);
  run("workspace", MeasureWorkspace);
  if (json.empty()) return 0;
  std::ofstream file(json);
  file << report.dump(2) << '\n';
  return file.good() ? 0 : 1;
}

}  // namespace
}  // namespace kvsteward::bench

// NOLINTNEXTLINE(bugprone-exception-escape): a benchmark may end that way.
int main(int argc, char** argv) { return kvsteward::bench::Main(argc, argv); }
