// The host backend: scores with SIMD on a fixed pool of threads, selects by the shared definition, compacts with
// memcpy.
#include <algorithm>
#include <memory>

#include "kernels/cpu/attention.h"
#include "kernels/cpu/bad_numbers.h"
#include "kernels/cpu/compact.h"
#include "kernels/cpu/refine.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cpu/tiles.h"
#include "kernels/policy/protect.h"
#include "kernels/policy/row.h"
#include "kernels/policy/select.h"
#include "kvsteward/engine/engine.h"

namespace kvsteward::engine {
namespace {

constexpr int32_t kNormTask = 32 * cpu::kTileKeys;  // residents

class HostEngine final : public Engine {
 public:
  explicit HostEngine(int threads) : threads_(threads) {}

  std::string_view name() const override { return "host"; }

  absl::Status ScoreLayer(const SequenceView& sequence, const Policy& policy, int64_t k, int32_t layer,
                          LayerScores* out) override {
    const auto kv_heads = static_cast<size_t>(sequence.geometry.kv_heads);
    const std::span<const UnitView> units = sequence.units.subspan(static_cast<size_t>(layer) * kv_heads, kv_heads);
    out->offsets.assign(1, 0);
    for (const UnitView& unit : units) out->offsets.push_back(out->offsets.back() + unit.length);
    out->scores.resize(static_cast<size_t>(out->offsets.back()));

    if (policy.reads_values()) {
      absl::Status status = FillNorms(sequence, units, layer);
      if (!status.ok()) return status;
    }
    if (policy.reads_queries()) {
      absl::Status status = cpu::ScoreAttention(sequence, policy, k, layer, threads_, out->scores);
      if (!status.ok()) return status;
    }
    std::vector<int32_t> bad(kv_heads, -1);
    threads_.ParallelFor(static_cast<int64_t>(kv_heads), [&](int64_t head, int) {
      const UnitView& unit = units[static_cast<size_t>(head)];
      const auto scores =
          std::span(out->scores)
              .subspan(static_cast<size_t>(out->offsets[static_cast<size_t>(head)]), static_cast<size_t>(unit.length));
      if (!policy.reads_queries()) FillPositions(sequence.pool, unit, scores);
      const CandidateRange candidates = Candidates(unit, sequence.pool, policy.protect, k);
      bad[static_cast<size_t>(head)] = cpu::RefineUnit(sequence.pool, unit, policy.refine, candidates, scores);
      std::fill(scores.begin(), scores.begin() + candidates.begin, kProtected);
      std::fill(scores.begin() + candidates.end, scores.end(), kProtected);
    });
    for (size_t head = 0; head < kv_heads; ++head) {
      if (bad[head] >= 0) return cpu::BadScore(layer, static_cast<int32_t>(head), bad[head]);
    }
    return absl::OkStatus();
  }

  void SelectLayer(const LayerScores& scores, const Policy& policy, int64_t layer_total, std::span<int32_t> kept,
                   std::span<const std::span<uint64_t>> masks) override {
    engine::SelectLayer(scores, policy, layer_total, kept, masks);
  }

  void CompactUnit(const Geometry& geometry, const PoolView& pool, const UnitView& unit, std::span<const uint64_t> mask,
                   std::span<const Run> to) override {
    cpu::CompactUnit(geometry, pool, unit, mask, to);
  }

 private:
  // Norms of the residents that have none yet.
  absl::Status FillNorms(const SequenceView& sequence, std::span<const UnitView> units, int32_t layer) {
    struct Task {
      int32_t head;
      cpu::Chunk chunk;
      int32_t bad = -1;
    };
    std::vector<Task> tasks;
    for (size_t head = 0; head < units.size(); ++head) {
      const UnitView& unit = units[head];
      for (int64_t begin = unit.normed; begin < unit.length; begin += kNormTask) {
        const auto end = static_cast<int32_t>(std::min<int64_t>(unit.length, begin + kNormTask));
        tasks.push_back({static_cast<int32_t>(head),
                         {&sequence.geometry, &sequence.pool, &unit, static_cast<int32_t>(begin), end}});
      }
    }
    threads_.ParallelFor(static_cast<int64_t>(tasks.size()), [&](int64_t i, int) {
      Task& task = tasks[static_cast<size_t>(i)];
      task.bad = cpu::NormChunk(task.chunk);
    });
    for (const Task& task : tasks) {
      if (task.bad >= 0) return cpu::BadValue(layer, task.head, task.bad);
    }
    return absl::OkStatus();
  }

  // The signal `none`: the newest token is worth most. Exact below 2^24; from there on neighbours share a float, and of
  // such ties the older wins. `recent: k - 4` leaves next to nothing to choose from, so streaming-llm does not mind.
  static void FillPositions(const PoolView& pool, const UnitView& unit, std::span<float> scores) {
    RowCursor cursor(unit.row);
    for (int32_t j = 0; j < unit.length; ++j) {
      const auto slot = static_cast<size_t>(j % kBlockTokens);
      const int32_t position = j < unit.stored
                                   ? pool.positions[static_cast<size_t>(cursor.block()) * kBlockTokens + slot]
                                   : unit.appended_position + (j - unit.stored);
      scores[static_cast<size_t>(j)] = static_cast<float>(position);
      if (slot == kBlockTokens - 1) cursor.Next();
    }
  }

  cpu::ThreadPool threads_;
};

}  // namespace

std::unique_ptr<Engine> NewHostEngine(int threads) { return std::make_unique<HostEngine>(threads); }

}  // namespace kvsteward::engine
