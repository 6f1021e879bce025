#include "kernels/cuda/on_host.h"

#include <utility>
#include <vector>

#include "kernels/cpu/score_layer.h"
#include "kernels/cuda/device_policy.h"
#include "kernels/cuda/device_scores.h"
#include "kernels/cuda/host_mirror.h"
#include "kernels/plan/select.h"

namespace kvsteward::engine::cuda {
namespace {

// The host engine over a copy. Attention and norms are the device's where it has kernels for them; of keys and values
// only what it has none for is brought here.
class MirroringEngine final : public LayerEngine {
 public:
  MirroringEngine(cpu::ThreadPool& threads, std::unique_ptr<HostMirror> mirror, std::unique_ptr<DeviceScores> on_device)
      : threads_(threads), mirror_(std::move(mirror)), on_device_(std::move(on_device)) {}

  std::string_view name() const override { return "cuda"; }
  const SequenceView& sequence() const { return mirror_->sequence(); }
  // What went wrong on the way back, where no status can be returned.
  const absl::Status& status() const { return status_; }

  absl::Status ScoreLayer(const SequenceView&, const Policy& policy, int64_t k, int32_t layer,
                          LayerScores* out) override {
    KVS_RETURN_IF_ERROR(Load(policy, layer));
    KVS_RETURN_IF_ERROR(
        cpu::ScoreLayer(mirror_->loaded(), policy, k, layer, threads_, out, DeviceAttention(policy, k, layer)));
    return policy.reads_norms() && !norms_on_device_ ? mirror_->StoreNorms(layer) : absl::OkStatus();
  }
  absl::Status AccumulateLayer(const SequenceView&, const Policy& policy, int64_t k, int32_t layer,
                               std::vector<float>* running) override {
    KVS_RETURN_IF_ERROR(mirror_->LoadLayer(layer, on_device_ == nullptr, false));
    return cpu::AccumulateLayer(mirror_->loaded(), policy, k, layer, threads_, running,
                                DeviceAttention(policy, k, layer));
  }
  void StoreRunning(const SequenceView&, int32_t layer, std::span<const float> running) override {
    status_.Update(mirror_->StoreRunning(layer, running));
  }
  void SelectLayer(const SequenceView& sequence, const Policy& policy, const LayerScores& scores,
                   LayerChoice& choice) override {
    const ParallelFor parallel = [this](int64_t count, const std::function<void(int64_t)>& body) {
      threads_.ParallelFor(count, [&](int64_t i, int) { body(i); });
    };
    engine::SelectLayer(sequence, policy, scores, parallel, choice);
  }
  absl::StatusOr<Publishing> CompactUnits(const SequenceView&, const Plan&, std::span<const UnitMove>,
                                          const TableView&) override {
    return absl::InternalError("a copy is not compacted");
  }

 private:
  // Brings what the host reads of the layer.
  absl::Status Load(const Policy& policy, int32_t layer) {
    bool values = policy.head.kind == HeadBudget::Kind::kSplit;
    if (policy.reads_norms()) {
      absl::StatusOr<bool> good = on_device_ == nullptr ? false : on_device_->FillNorms(layer);
      if (!good.ok()) return good.status();
      norms_on_device_ = *good;
      if (*good) KVS_RETURN_IF_ERROR(mirror_->LoadNorms(layer));
      values |= !*good;
    }
    return mirror_->LoadLayer(layer, on_device_ == nullptr && policy.reads_keys(), values);
  }

  // In place of the host's attention; empty if the device has no kernel for it.
  cpu::Attend DeviceAttention(const Policy& policy, int64_t k, int32_t layer) {
    if (on_device_ == nullptr) return {};
    return [this, &policy, k, layer](std::span<const CandidateSet> candidates, const cpu::AttentionOutput& output) {
      const absl::StatusOr<bool> good = on_device_->Score(k, layer, output);
      if (!good.ok() || *good) return good.status();
      // A number that is not finite is the host's to find, and to judge: no row may see it.
      KVS_RETURN_IF_ERROR(mirror_->LoadLayer(layer, true, false));
      return cpu::ScoreAttention(mirror_->loaded(), policy, k, layer, candidates, threads_, output);
    };
  }

  cpu::ThreadPool& threads_;
  const std::unique_ptr<HostMirror> mirror_;
  const std::unique_ptr<DeviceScores> on_device_;  // null: the host scores, too
  bool norms_on_device_ = false;                   // of the layer that was loaded last
  absl::Status status_;
};

class MirroredEviction final : public Eviction {
 public:
  MirroredEviction(std::unique_ptr<MirroringEngine> engine, std::unique_ptr<Eviction> eviction)
      : engine_(std::move(engine)), eviction_(std::move(eviction)) {}

  bool finished() const override { return eviction_->finished(); }
  absl::Status Step() override { return eviction_->Step(); }
  absl::Status CommitRunning() override {
    KVS_RETURN_IF_ERROR(eviction_->CommitRunning());
    return engine_->status();
  }
  Plan TakePlan() override { return eviction_->TakePlan(); }
  double score_seconds() const override { return eviction_->score_seconds(); }
  double select_seconds() const override { return eviction_->select_seconds(); }

 private:
  const std::unique_ptr<MirroringEngine> engine_;
  const std::unique_ptr<Eviction> eviction_;
};

class MirroredObservation final : public Observation {
 public:
  MirroredObservation(std::unique_ptr<MirroringEngine> engine, std::unique_ptr<Observation> observation)
      : engine_(std::move(engine)), observation_(std::move(observation)) {}

  bool finished() const override { return observation_->finished(); }
  absl::Status Step() override { return observation_->Step(); }
  absl::Status Commit() override {
    KVS_RETURN_IF_ERROR(observation_->Commit());
    return engine_->status();
  }

 private:
  const std::unique_ptr<MirroringEngine> engine_;
  const std::unique_ptr<Observation> observation_;
};

absl::StatusOr<std::unique_ptr<MirroringEngine>> MakeEngine(std::shared_ptr<Device> device, cpu::ThreadPool& threads,
                                                            const SequenceView& sequence, const Policy& policy,
                                                            Scorer scorer) {
  absl::StatusOr<std::unique_ptr<HostMirror>> mirror = HostMirror::Make(device, sequence, policy);
  if (!mirror.ok()) return mirror.status();
  std::unique_ptr<DeviceScores> on_device;
  if (scorer == Scorer::kDevice && ScoresOnDevice(policy)) {
    absl::StatusOr<std::unique_ptr<DeviceScores>> made = DeviceScores::Make(std::move(device), sequence, policy);
    if (!made.ok()) return made.status();
    on_device = *std::move(made);
  }
  return std::make_unique<MirroringEngine>(threads, *std::move(mirror), std::move(on_device));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Eviction>> StartEvictionOnHost(std::shared_ptr<Device> device, cpu::ThreadPool& threads,
                                                              const SequenceView& sequence, const Policy& policy,
                                                              const Budget& budget, PlanWants wants, Scorer scorer) {
  auto engine = MakeEngine(std::move(device), threads, sequence, policy, scorer);
  if (!engine.ok()) return engine.status();
  auto eviction = (*engine)->StartEviction((*engine)->sequence(), policy, budget, wants);
  if (!eviction.ok()) return eviction.status();
  return std::make_unique<MirroredEviction>(*std::move(engine), *std::move(eviction));
}

absl::StatusOr<std::unique_ptr<Observation>> StartObservationOnHost(std::shared_ptr<Device> device,
                                                                    cpu::ThreadPool& threads,
                                                                    const SequenceView& sequence, const Policy& policy,
                                                                    const Budget& budget) {
  auto engine = MakeEngine(std::move(device), threads, sequence, policy, Scorer::kDevice);
  if (!engine.ok()) return engine.status();
  auto observation = (*engine)->StartObservation((*engine)->sequence(), policy, budget);
  if (!observation.ok()) return observation.status();
  return std::make_unique<MirroredObservation>(*std::move(engine), *std::move(observation));
}

}  // namespace kvsteward::engine::cuda
