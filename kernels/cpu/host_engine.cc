// The host backend: scores with SIMD on a fixed pool of threads, selects by the shared definition, compacts a
// unit per thread.
#include "kernels/cpu/host_engine.h"

#include <memory>

#include "kernels/cpu/compact.h"
#include "kernels/cpu/score_layer.h"
#include "kernels/cpu/side_array.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/plan/select.h"

namespace kvsteward::engine {
namespace {

class HostEngine final : public LayerEngine {
 public:
  explicit HostEngine(int threads) : threads_(threads) {}

  std::string_view name() const override { return "host"; }

  absl::Status ScoreLayer(const SequenceView& sequence, const Policy& policy, int64_t k, int32_t layer,
                          LayerScores* out) override {
    return cpu::ScoreLayer(sequence, policy, k, layer, threads_, out);
  }

  absl::Status AccumulateLayer(const SequenceView& sequence, const Policy& policy, int64_t k, int32_t layer,
                               std::vector<float>* running) override {
    return cpu::AccumulateLayer(sequence, policy, k, layer, threads_, running);
  }

  void StoreRunning(const SequenceView& sequence, int32_t layer, std::span<const float> running) override {
    const auto heads = static_cast<size_t>(sequence.geometry.kv_heads);
    for (const UnitView& unit : sequence.units.subspan(static_cast<size_t>(layer) * heads, heads)) {
      cpu::StoreSide(running.first(static_cast<size_t>(unit.length)), unit, sequence.pool.running);
      running = running.subspan(static_cast<size_t>(unit.length));
    }
  }

  void SelectLayer(const SequenceView& sequence, const Policy& policy, const LayerScores& scores,
                   LayerChoice& choice) override {
    const ParallelFor parallel = [this](int64_t count, const std::function<void(int64_t)>& body) {
      threads_.ParallelFor(count, [&](int64_t i, int) { body(i); });
    };
    engine::SelectLayer(sequence, policy, scores, parallel, choice);
  }

  absl::StatusOr<Publishing> CompactUnits(const SequenceView& sequence, const Plan& plan,
                                          std::span<const UnitMove> moves, const TableView&) override {
    threads_.ParallelFor(static_cast<int64_t>(moves.size()), [&](int64_t i, int) {
      const UnitMove& move = moves[static_cast<size_t>(i)];
      cpu::CompactUnit(sequence.geometry, sequence.pool, sequence.units[static_cast<size_t>(move.unit)],
                       plan.UnitMask(move.unit), move.to);
    });
    return Publishing::kByCaller;
  }

 private:
  cpu::ThreadPool threads_;
};

}  // namespace

std::unique_ptr<LayerEngine> NewHostLayerEngine(int threads) { return std::make_unique<HostEngine>(threads); }

std::unique_ptr<Engine> NewHostEngine(int threads) { return NewHostLayerEngine(threads); }

}  // namespace kvsteward::engine
