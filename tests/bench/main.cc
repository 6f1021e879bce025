// kvsteward_bench: one layer of 32 query heads on 8 kv heads of 128 numbers, window 32, bf16: scored, selected,
// compacted. Each stage is compared with what bounds it, measured in turns within the same run. `--serve` times one
// scoring per line of input instead, so that bench.py can alternate it with NumPy.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "kvsteward/engine/engine.h"
#include "nlohmann/json.hpp"
#include "tests/bench/fixture.h"
#include "tests/bench/fma_peak.h"
#include "tests/bench/heap_peak.h"

namespace kvsteward::bench {
namespace {

constexpr int32_t kQueryHeads = 32;
constexpr int32_t kKvHeads = 8;
constexpr int32_t kHeadDim = 128;
constexpr int32_t kWindow = 32;

struct Options {
  int32_t tokens = 32768;
  int threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  int rounds = 9;
  std::string json;
  bool serve = false;
};

struct Time {
  double wall = 0;
  double cpu = 0;  // of all threads
};

template <class Body>
Time Measure(const Body& body) {
  const auto cpu = [] {
    timespec now = {};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
  };
  const double cpu_begin = cpu();
  const auto begin = std::chrono::steady_clock::now();
  body();
  const double wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return {wall, cpu() - cpu_begin};
}

// Readings of one quantity, one a round.
struct Series {
  std::vector<double> values;

  double Min() const { return *std::min_element(values.begin(), values.end()); }
  double Max() const { return *std::max_element(values.begin(), values.end()); }
  double Median() const {
    std::vector<double> sorted = values;
    std::sort(sorted.begin(), sorted.end());
    return sorted[sorted.size() / 2];
  }
};

class Bench {
 public:
  explicit Bench(const Options& options)
      : options_(options),
        fixture_(options.tokens, kQueryHeads, kKvHeads, kHeadDim, kWindow),
        engine_(engine::NewHostEngine(options.threads)),
        policy_(*engine::Preset("ahakv-ada")),
        budget_(std::max(64, options.tokens / 10)) {}

  Time Score(bool normed, bool float_queries) {
    const engine::SequenceView& sequence = fixture_.Sequence(normed, float_queries);
    return Measure([&] {
      if (!engine_->ScoreLayer(sequence, policy_, budget_, 0, &scores_).ok()) std::abort();
    });
  }

  double Select() {
    const size_t words = (static_cast<size_t>(options_.tokens) + 63) / 64;
    mask_.assign(words * kKvHeads, 0);
    masks_.clear();
    for (size_t head = 0; head < kKvHeads; ++head) masks_.push_back(std::span(mask_).subspan(head * words, words));
    kept_.assign(kKvHeads, 0);
    return Measure([&] { engine_->SelectLayer(scores_, policy_, budget_ * kKvHeads, kept_, masks_); }).wall;
  }

  double Compact() {
    const engine::SequenceView& sequence = fixture_.Sequence(true, false);
    return Measure([&] {
             for (int32_t head = 0; head < kKvHeads; ++head) {
               const auto at = static_cast<size_t>(head);
               const Run to = fixture_.FreeRun(head);
               engine_->CompactUnit(sequence.geometry, sequence.pool, sequence.units[at], masks_[at], {&to, 1});
             }
           })
        .wall;
  }

  // As many bytes as Compact() moves, in one piece per unit, from and to the same places.
  double Copy() {
    const engine::SequenceView& sequence = fixture_.Sequence(true, false);
    return Measure([&] {
             for (int32_t head = 0; head < kKvHeads; ++head) {
               const auto at = static_cast<size_t>(head);
               const size_t bytes = static_cast<size_t>(kept_[at]) * 2 * sequence.geometry.token_bytes();
               std::memcpy(sequence.pool.keys(fixture_.FreeRun(head).first),
                           sequence.pool.keys(sequence.units[at].row[0].first), bytes);
             }
           })
        .wall;
  }

  int Report() {
    ResetHeapPeak();
    Score(false, true);
    const double workspace = static_cast<double>(HeapPeak()) / (16.0 * kKvHeads * options_.tokens + (8 << 20));
    Select();
    Compact();

    Series peak, score, vectors, cold, select, compact, copy, ratio, cpu_ratio, vector_ratio, vector_cpu_ratio;
    for (int round = 0; round < options_.rounds; ++round) {
      double flops = 0;
      const Time fma = Measure([&] { flops = MultiplyAdds(options_.threads); });
      const Time with_amx = Score(true, false);
      const Time without = Score(true, true);
      const double passes = TwoPasses() / flops;  // in units of what was just measured
      peak.values.push_back(1e-9 * flops / fma.wall);
      score.values.push_back(1e3 * with_amx.wall);
      vectors.values.push_back(1e3 * without.wall);
      ratio.values.push_back(with_amx.wall / fma.wall / passes);
      cpu_ratio.values.push_back(with_amx.cpu / fma.cpu / passes);
      vector_ratio.values.push_back(without.wall / fma.wall / passes);
      vector_cpu_ratio.values.push_back(without.cpu / fma.cpu / passes);
      cold.values.push_back(1e3 * Score(false, false).wall);
      select.values.push_back(1e3 * Select());
      copy.values.push_back(1e3 * Copy());
      compact.values.push_back(1e3 * Compact());
    }
    std::printf("%d tokens, %d threads, %d rounds: min / median / max\n", options_.tokens, options_.threads,
                options_.rounds);
    nlohmann::json report = {{"tokens", options_.tokens}, {"threads", options_.threads}};
    Print("multiply-add peak, GFLOP/s", "fma_peak_gflops", peak, report);
    Print("score, ms", "score_ms", score, report);
    Print("score, value norms not cached, ms", "score_cold_ms", cold, report);
    Print("score, queries in f32 (vectors only), ms", "score_vectors_ms", vectors, report);
    Print("select, ms", "select_ms", select, report);
    Print("compact 10 %, ms", "compact_ms", compact, report);
    Print("memcpy of the same bytes, ms", "memcpy_ms", copy, report);
    Print("score / two QK passes at the peak", "score_to_floor", ratio, report);
    Print("  the same by CPU time", "score_to_floor_cpu", cpu_ratio, report);
    Print("score, vectors only / two QK passes", "vectors_to_floor", vector_ratio, report);
    Print("  the same by CPU time", "vectors_to_floor_cpu", vector_cpu_ratio, report);
    Print("select / score, of the minima", "select_to_score", {{select.Min() / score.Min()}}, report);
    Print("compact / memcpy, of the minima", "compact_to_memcpy", {{compact.Min() / copy.Min()}}, report);
    Print("peak workspace / bound", "workspace_to_bound", {{workspace}}, report);
    if (options_.json.empty()) return 0;
    std::ofstream file(options_.json);
    file << report.dump(2) << '\n';
    return file.good() ? 0 : 1;
  }

  int Serve() {
    for (std::string line; std::getline(std::cin, line);) std::cout << Score(false, false).wall << std::endl;
    return 0;
  }

 private:
  // Floating point operations of two passes of QK^T.
  double TwoPasses() const { return 4.0 * kQueryHeads * kWindow * kHeadDim * options_.tokens; }

  static void Print(const char* what, const char* key, const Series& series, nlohmann::json& report) {
    std::printf("%-42s %9.3f %9.3f %9.3f\n", what, series.Min(), series.Median(), series.Max());
    report[key] = series.values;
  }

  const Options options_;
  Fixture fixture_;
  std::unique_ptr<engine::Engine> engine_;
  const engine::Policy policy_;
  const int64_t budget_;
  engine::LayerScores scores_;
  std::vector<uint64_t> mask_;
  std::vector<std::span<uint64_t>> masks_;
  std::vector<int32_t> kept_;
};

int Main(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--serve") {
      options.serve = true;
    } else if (name == "--json" && i + 1 < argc) {
      options.json = argv[++i];
    } else if (name == "--tokens" && i + 1 < argc) {
      options.tokens = std::max(kWindow, std::atoi(argv[++i]));
    } else if (name == "--threads" && i + 1 < argc) {
      options.threads = std::max(1, std::atoi(argv[++i]));
    } else if (name == "--rounds" && i + 1 < argc) {
      options.rounds = std::max(1, std::atoi(argv[++i]));
    } else {
      std::fprintf(stderr, "usage: %s [--tokens N] [--threads N] [--rounds N] [--json FILE] [--serve]\n", argv[0]);
      return 2;
    }
  }
  Bench bench(options);
  return options.serve ? bench.Serve() : bench.Report();
}

}  // namespace
}  // namespace kvsteward::bench

// NOLINTNEXTLINE(bugprone-exception-escape): a benchmark may end that way.
int main(int argc, char** argv) { return kvsteward::bench::Main(argc, argv); }
