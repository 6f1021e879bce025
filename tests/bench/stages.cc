// One layer of 32 query heads on 8 kv heads, stage by stage, against what bounds each.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu/host_engine.h"
#include "kernels/cpu/thread_pool.h"
#include "tests/bench/fma_peak.h"
#include "tests/bench/measure.h"
#include "tests/bench/sections.h"

namespace kvsteward::bench {
namespace {

constexpr int kCopies = 5;  // a round: they are short

class Stages {
 public:
  explicit Stages(const Options& options)
      : options_(options),
        fixture_(options.tokens),
        engine_(engine::NewHostLayerEngine(options.threads)),
        single_(engine::NewHostLayerEngine(1)),
        threads_(options.threads),
        policy_(*engine::Preset("ahakv-ada")),
        budget_(std::max(64, options.tokens / 10)) {}

  Time Score(bool normed, bool float_queries) {
    const engine::SequenceView& sequence = View(normed, float_queries);
    return Measure([&] {
      if (!engine_->ScoreLayer(sequence, policy_, budget_, 0, &scores_).ok()) std::abort();
    });
  }

  Time Select() {
    const engine::SequenceView& sequence = View(true, false);
    const size_t words = (static_cast<size_t>(options_.tokens) + 63) / 64;
    mask_.assign(words * kKvHeads, 0);
    masks_.clear();
    for (size_t head = 0; head < kKvHeads; ++head) masks_.push_back(std::span(mask_).subspan(head * words, words));
    kept_.assign(kKvHeads, 0);
    engine::LayerChoice choice{
        .layer = 0, .total = budget_ * kKvHeads, .shares = {}, .kept = kept_, .masks = masks_, .unsplit = false};
    return Measure([&] { engine_->SelectLayer(sequence, policy_, scores_, choice); });
  }

  // On all threads, or on one.
  Time Compact(bool threads) {
    const engine::SequenceView& sequence = View(true, false);
    std::vector<Run> to;
    for (int32_t head = 0; head < kKvHeads; ++head) to.push_back(fixture_.FreeRun(head));
    engine::Plan plan;
    plan.mask = mask_;
    plan.mask_offsets = {0};
    std::vector<engine::UnitMove> moves;
    for (int32_t head = 0; head < kKvHeads; ++head) {
      plan.mask_offsets.push_back(plan.mask_offsets.back() + static_cast<int64_t>(masks_[0].size()));
      moves.push_back({head, {&to[static_cast<size_t>(head)], 1}});
    }
    fixture_.ReadAll();
    return Measure([&] {
      if (!(threads ? *engine_ : *single_).CompactUnits(sequence, plan, moves, {}).ok()) std::abort();
    });
  }

  // As many bytes as Compact() moves, in one piece per unit, from and to the same places.
  Time Copy(bool threads) {
    const engine::SequenceView& sequence = View(true, false);
    const auto copy = [&](int64_t head, int) {
      const auto at = static_cast<size_t>(head);
      const size_t bytes = static_cast<size_t>(kept_[at]) * 2 * sequence.geometry.token_bytes();
      std::memcpy(sequence.pool.keys(fixture_.FreeRun(static_cast<int32_t>(head)).first),
                  sequence.pool.keys(sequence.units[at].row[0].first), bytes);
    };
    fixture_.ReadAll();
    return Measure([&] {
      if (threads) {
        threads_.ParallelFor(kKvHeads, copy);
      } else {
        for (int64_t head = 0; head < kKvHeads; ++head) copy(head, 0);
      }
    });
  }

  nlohmann::json Report() {
    Score(false, true);  // first touches, and the norms
    Select();
    Copy(true);
    Series peak, score, vectors, cold, select, compact, copy, compact_all, copy_all;
    Series ratio, cpu_ratio, vector_ratio, vector_cpu_ratio, select_ratio, compact_ratio, compact_cpu_ratio,
        compact_all_ratio;
    for (int round = 0; round < options_.rounds; ++round) {
      double flops = 0;
      const Time fma = Measure([&] { flops = MultiplyAdds(options_.threads); });
      const Time with_amx = Score(true, false);
      const double select_wall = Select().wall;
      const Time without = Score(true, true);
      const double passes = TwoPasses() / flops;  // in units of what was just measured
      peak.Add(1e-9 * flops / fma.wall);
      score.Add(1e3 * with_amx.wall);
      select.Add(1e3 * select_wall);
      vectors.Add(1e3 * without.wall);
      ratio.Add(with_amx.wall / fma.wall / passes);
      cpu_ratio.Add(with_amx.cpu / fma.cpu / passes);
      vector_ratio.Add(without.wall / fma.wall / passes);
      vector_cpu_ratio.Add(without.cpu / fma.cpu / passes);
      select_ratio.Add(select_wall / with_amx.wall);
      cold.Add(1e3 * Score(false, false).wall);
      for (int i = 0; i < kCopies; ++i) {
        const Time copied = Copy(false);
        const Time compacted = Compact(false);
        const Time copied_all = Copy(true);
        const Time compacted_all = Compact(true);
        copy.Add(1e3 * copied.wall);
        compact.Add(1e3 * compacted.wall);
        compact_ratio.Add(compacted.wall / copied.wall);
        compact_cpu_ratio.Add(compacted.cpu / copied.cpu);
        copy_all.Add(1e3 * copied_all.wall);
        compact_all.Add(1e3 * compacted_all.wall);
        compact_all_ratio.Add(compacted_all.wall / copied_all.wall);
      }
    }
    const std::string on_all = "on " + std::to_string(options_.threads) + " threads";
    Section section("One layer, " + std::to_string(options_.tokens) + " tokens, " + on_all + ", " +
                    std::to_string(options_.rounds) + " rounds");
    section.Add("multiply-add peak, GFLOP/s", "fma_peak_gflops", peak);
    section.Add("score, ms", "score_ms", score);
    section.Add("score, value norms not cached, ms", "score_cold_ms", cold);
    section.Add("score, queries in f32 (vectors only), ms", "score_vectors_ms", vectors);
    section.Add("score / two QK passes at the peak", "score_to_floor", ratio);
    section.Add("  the same by CPU time", "score_to_floor_cpu", cpu_ratio);
    section.Add("score, vectors only / two QK passes", "vectors_to_floor", vector_ratio);
    section.Add("  the same by CPU time", "vectors_to_floor_cpu", vector_cpu_ratio);
    section.Add("select, ms", "select_ms", select);
    section.Add("select / score", "select_to_score", select_ratio);
    section.Add("  of the minima", "select_to_score_minima", select.Min() / score.Min());
    section.Add("memcpy of the kept bytes, one thread, ms", "memcpy_ms", copy);
    section.Add("compact 10 %, one thread, ms", "compact_ms", compact);
    section.Add("compact / memcpy, one thread each", "compact_to_memcpy", compact_ratio);
    section.Add("  the same by CPU time", "compact_to_memcpy_cpu", compact_cpu_ratio);
    section.Add("  of the minima", "compact_to_memcpy_minima", compact.Min() / copy.Min());
    section.Add("memcpy " + on_all + ", ms", "memcpy_all_ms", copy_all);
    section.Add("compact 10 % " + on_all + ", ms", "compact_all_ms", compact_all);
    section.Add("compact / memcpy, " + on_all + " each", "compact_all_to_memcpy_all", compact_all_ratio);
    section.Add("  of the minima", "compact_all_to_memcpy_all_minima", compact_all.Min() / copy_all.Min());
    section.Add("compact " + on_all + " / memcpy on one, of the minima", "compact_all_to_memcpy_minima",
                compact_all.Min() / copy.Min());
    return section.Take();
  }

 private:
  const engine::SequenceView& View(bool normed, bool float_queries) {
    return fixture_.Sequence(
        policy_, {.tokens = options_.tokens, .layers = 1, .normed = normed, .float_queries = float_queries});
  }
  // Floating point operations of two passes of QK^T.
  double TwoPasses() const { return 4.0 * kQueryHeads * kWindow * kHeadDim * options_.tokens; }

  const Options options_;
  Fixture fixture_;
  std::unique_ptr<engine::LayerEngine> engine_;
  std::unique_ptr<engine::LayerEngine> single_;
  engine::cpu::ThreadPool threads_;
  const engine::Policy policy_;
  const int64_t budget_;
  engine::LayerScores scores_;
  std::vector<uint64_t> mask_;
  std::vector<std::span<uint64_t>> masks_;
  std::vector<int32_t> kept_;
};

}  // namespace

nlohmann::json MeasureStages(const Options& options) { return Stages(options).Report(); }

int Serve(const Options& options) {
  Stages stages(options);
  for (std::string line; std::getline(std::cin, line);) std::cout << stages.Score(false, false).wall << std::endl;
  return 0;
}

}  // namespace kvsteward::bench
