// kvsteward_gpu_bench: how near the kernels come to what the device can do. Ceilings first, then every stage, each by
// events over many repetitions, all in one run. Other modes are for run.sh: what a profiler looks at, and a process
// that reads a cache over and over as a decoding worker does.
#include <chrono>
#include <cstdio>
#include <fstream>
#include <string>

#include "CLI/CLI.hpp"
#include "tests/gpu/bench/kernels.h"
#include "tests/gpu/bench/sections.h"
#include "tests/gpu/bench/sequence.h"
#include "tests/gpu/check.h"

namespace kvsteward::gpu_bench {
namespace {

constexpr int32_t kTokens = 32768;

// Scores one layer once: K and norms of 32k tokens.
void ScoreOnce() {
  Timer timer(1);
  Sequence sequence(1, kTokens, timer.stream());
  CHECK_CUDA(sequence.Score(0, 1, 4, false, timer.stream()));
  CHECK_CUDA(sequence.Refine(Policy::kAhaKvAda, 0, 1, timer.stream()));
  CHECK_CUDA(cudaStreamSynchronize(timer.stream()));
}

// Reads the cache of 32 layers, waits for it, and so on.
void PlayWorker(double seconds) {
  Timer timer(1);
  const Sequence sequence(32, kTokens, timer.stream());
  const gpu_test::DeviceArray<uint32_t> sink(1);
  const size_t layer_bytes = sequence.data_bytes() / 32;
  const auto begin = std::chrono::steady_clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); };
  int64_t steps = 0;
  for (; elapsed() < seconds && gpu_test::failures == 0; ++steps) {
    for (size_t layer = 0; layer < 32; ++layer) {
      CHECK_CUDA(LaunchRead(sequence.data() + layer * layer_bytes, layer_bytes, 1, sink.data(), timer.stream()));
    }
    CHECK_CUDA(cudaStreamSynchronize(timer.stream()));
  }
  std::printf("%lld steps, %.1f us each\n", static_cast<long long>(steps),
              1e6 * elapsed() / static_cast<double>(steps > 0 ? steps : 1));
}

bool Write(const std::string& path, const std::string& text) {
  if (path.empty()) return true;
  std::ofstream file(path);
  file << text;
  return CHECK(file.good());
}

int Main(int argc, char** argv) {
  int repetitions = 100;
  double matmul_tflops = 0, play_worker = 0;
  bool score_once = false;
  std::string json, rows, mask;
  CLI::App app("Measures kvsteward's kernels against what this device can do");
  app.add_option("--repetitions", repetitions, "of everything that is timed")->check(CLI::Range(1, 100000));
  app.add_option("--matmul-tflops", matmul_tflops, "rate of a library's bf16 product of matrices in this run");
  app.add_option("--json", json, "file for all figures");
  app.add_option("--rows", rows, "file for all figures, a line each, cells separated by tabs");
  app.add_option("--mask", mask, "file for the tokens of layer 0 that stay, for torch_side.py");
  app.add_flag("--score-once", score_once, "only score one layer of 32k once");
  app.add_option("--play-worker", play_worker, "only read a cache over and over, for so many seconds");
  CLI11_PARSE(app, argc, argv);

  if (score_once || play_worker > 0) {
    if (score_once) ScoreOnce();
    if (play_worker > 0) PlayWorker(play_worker);
    return gpu_test::TestResult();
  }
  cudaDeviceProp device = {};
  if (!CHECK_CUDA(cudaGetDeviceProperties(&device, 0))) return gpu_test::TestResult();
  std::printf("%s, %d multiprocessors, L2 %.0f MiB\n%-56s %9s %9s %9s\n", device.name, device.multiProcessorCount,
              device.l2CacheSize / 1048576.0, "", "p10", "median", "p90");
  Report report;
  {
    Timer timer(repetitions);
    const Ceilings ceilings = MeasureCeilings(timer, matmul_tflops, report);
    MeasureStages(timer, ceilings, mask, report);
    MeasureEvict(timer, report);
    MeasureAttention(timer, ceilings, report);
  }
  std::printf("\n%s", report.Table().c_str());
  Write(rows, report.Rows());
  Write(json, nlohmann::json{{"device", device.name}, {"figures", report.Json()}}.dump(1) + "\n");
  return gpu_test::TestResult();
}

}  // namespace
}  // namespace kvsteward::gpu_bench

int main(int argc, char** argv) { return kvsteward::gpu_bench::Main(argc, argv); }
