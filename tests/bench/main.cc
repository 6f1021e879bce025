// kvsteward_bench: one layer of 32 query heads on 8 kv heads of 128 numbers, window 32, bf16: scored, selected,
// compacted. Each stage is compared with what bounds it, measured in turns within the same run. `--serve` times one
// scoring per line of input instead, so that bench.py can alternate it with NumPy.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
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

template <class Body>
double Seconds(const Body& body) {
  const auto begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
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

  double Score(bool normed) {
    return Seconds([&] {
      if (!engine_->ScoreLayer(fixture_.Sequence(normed), policy_, budget_, 0, &scores_).ok()) std::abort();
    });
  }

  double Select() {
    const size_t words = (static_cast<size_t>(options_.tokens) + 63) / 64;
    mask_.assign(words * kKvHeads, 0);
    masks_.clear();
    for (size_t head = 0; head < kKvHeads; ++head) masks_.push_back(std::span(mask_).subspan(head * words, words));
    kept_.assign(kKvHeads, 0);
    return Seconds([&] { engine_->SelectLayer(scores_, policy_, budget_ * kKvHeads, kept_, masks_); });
  }

  double Compact() {
    const engine::SequenceView& sequence = fixture_.Sequence(true);
    return Seconds([&] {
      for (int32_t head = 0; head < kKvHeads; ++head) {
        const auto at = static_cast<size_t>(head);
        const Run to = fixture_.FreeRun(head);
        engine_->CompactUnit(sequence.geometry, sequence.pool, sequence.units[at], masks_[at], {&to, 1});
      }
    });
  }

  // As many bytes as Compact() moves, in one piece per unit, keys and values from and to the same places.
  double Copy() {
    const engine::SequenceView& sequence = fixture_.Sequence(true);
    return Seconds([&] {
      for (int32_t head = 0; head < kKvHeads; ++head) {
        const auto at = static_cast<size_t>(head);
        const size_t bytes = static_cast<size_t>(kept_[at]) * 2 * sequence.geometry.token_bytes();
        std::memcpy(sequence.pool.keys(fixture_.FreeRun(head).first),
                    sequence.pool.keys(sequence.units[at].row[0].first), bytes);
      }
    });
  }

  int Measure() {
    ResetHeapPeak();
    Score(false);
    const double workspace = static_cast<double>(HeapPeak());
    const double workspace_bound = 16.0 * kKvHeads * options_.tokens + (8 << 20);
    Select();
    Compact();

    Series peak, ratio, score, cold, select, compact, copy;
    for (int round = 0; round < options_.rounds; ++round) {
      const double before = FmaPeak(options_.threads);
      score.values.push_back(Score(true));
      peak.values.push_back(std::max(before, FmaPeak(options_.threads)));
      ratio.values.push_back(score.values.back() * peak.values.back() / TwoPasses());
      cold.values.push_back(Score(false));
      select.values.push_back(Select());
      copy.values.push_back(Copy());
      compact.values.push_back(Compact());
    }
    const double floor = TwoPasses() / peak.Max();
    std::printf("%d tokens, %d threads, %d rounds: min / median / max\n", options_.tokens, options_.threads,
                options_.rounds);
    Print("multiply-add peak, GFLOP/s", peak, 1e-9);
    Print("score, norms cached, ms", score, 1e3);
    Print("score, norms computed, ms", cold, 1e3);
    Print("select, ms", select, 1e3);
    Print("compact 10 %, ms", compact, 1e3);
    Print("memcpy of the same bytes, ms", copy, 1e3);
    Print("score / two QK passes at the peak around it", ratio, 1);
    std::printf("%-46s %9.3f\n", "score / two QK passes at the peak, minima", score.Min() / floor);
    std::printf("%-46s %9.2f %%\n", "select / score, minima", 100 * select.Min() / score.Min());
    std::printf("%-46s %9.3f\n", "compact / memcpy, minima", compact.Min() / copy.Min());
    std::printf("%-46s %9.3f of the bound, %.2f MiB\n", "peak workspace", workspace / workspace_bound,
                workspace / (1 << 20));
    if (options_.json.empty()) return 0;
    const nlohmann::json report = {{"tokens", options_.tokens},
                                   {"threads", options_.threads},
                                   {"fma_peak_flops", peak.values},
                                   {"score_seconds", score.values},
                                   {"score_cold_seconds", cold.values},
                                   {"select_seconds", select.values},
                                   {"compact_seconds", compact.values},
                                   {"memcpy_seconds", copy.values},
                                   {"score_to_two_passes", score.Min() / floor},
                                   {"score_to_two_passes_rounds", ratio.values},
                                   {"select_to_score", select.Min() / score.Min()},
                                   {"compact_to_memcpy", compact.Min() / copy.Min()},
                                   {"workspace_bytes", workspace},
                                   {"workspace_to_bound", workspace / workspace_bound}};
    std::ofstream file(options_.json);
    file << report.dump(2) << '\n';
    return file.good() ? 0 : 1;
  }

  int Serve() {
    for (std::string line; std::getline(std::cin, line);) std::cout << Score(false) << std::endl;
    return 0;
  }

 private:
  // Floating point operations of two passes of QK^T.
  double TwoPasses() const { return 4.0 * kQueryHeads * kWindow * kHeadDim * options_.tokens; }

  static void Print(const char* what, const Series& series, double unit) {
    std::printf("%-46s %9.3f %9.3f %9.3f\n", what, series.Min() * unit, series.Median() * unit, series.Max() * unit);
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
  return options.serve ? bench.Serve() : bench.Measure();
}

}  // namespace
}  // namespace kvsteward::bench

// NOLINTNEXTLINE(bugprone-exception-escape): a benchmark may end that way.
int main(int argc, char** argv) { return kvsteward::bench::Main(argc, argv); }
