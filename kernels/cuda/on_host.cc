#include "kernels/cuda/on_host.h"

#include <utility>
#include <vector>

#include "kernels/cuda/host_mirror.h"

namespace kvsteward::engine::cuda {
namespace {

// The host engine, for which the mirror brings each layer when it is its turn and takes back what was made of it.
class MirroringEngine final : public LayerEngine {
 public:
  MirroringEngine(LayerEngine& host, std::unique_ptr<HostMirror> mirror) : host_(host), mirror_(std::move(mirror)) {}

  std::string_view name() const override { return host_.name(); }
  const SequenceView& sequence() const { return mirror_->sequence(); }
  // What went wrong on the way back, where no status can be returned.
  const absl::Status& status() const { return status_; }

  absl::Status ScoreLayer(const SequenceView&, const Policy& policy, int64_t k, int32_t layer,
                          LayerScores* out) override {
    KVS_RETURN_IF_ERROR(mirror_->LoadLayer(layer));
    KVS_RETURN_IF_ERROR(host_.ScoreLayer(mirror_->loaded(), policy, k, layer, out));
    return policy.reads_norms() ? mirror_->StoreNorms(layer) : absl::OkStatus();
  }
  absl::Status AccumulateLayer(const SequenceView&, const Policy& policy, int64_t k, int32_t layer,
                               std::vector<float>* running) override {
    KVS_RETURN_IF_ERROR(mirror_->LoadLayer(layer));
    return host_.AccumulateLayer(mirror_->loaded(), policy, k, layer, running);
  }
  void StoreRunning(const SequenceView&, int32_t layer, std::span<const float> running) override {
    status_.Update(mirror_->StoreRunning(layer, running));
  }
  void SelectLayer(const SequenceView& sequence, const Policy& policy, const LayerScores& scores,
                   LayerChoice& choice) override {
    host_.SelectLayer(sequence, policy, scores, choice);
  }
  absl::StatusOr<Publishing> CompactUnits(const SequenceView&, const Plan&, std::span<const UnitMove>,
                                          const TableView&) override {
    return absl::InternalError("a copy is not compacted");
  }

 private:
  LayerEngine& host_;
  const std::unique_ptr<HostMirror> mirror_;
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

}  // namespace

absl::StatusOr<std::unique_ptr<Eviction>> StartEvictionOnHost(std::shared_ptr<Device> device, LayerEngine& host,
                                                              const SequenceView& sequence, const Policy& policy,
                                                              const Budget& budget, PlanWants wants) {
  absl::StatusOr<std::unique_ptr<HostMirror>> mirror = HostMirror::Make(std::move(device), sequence, policy);
  if (!mirror.ok()) return mirror.status();
  auto engine = std::make_unique<MirroringEngine>(host, *std::move(mirror));
  absl::StatusOr<std::unique_ptr<Eviction>> eviction = engine->StartEviction(engine->sequence(), policy, budget, wants);
  if (!eviction.ok()) return eviction.status();
  return std::make_unique<MirroredEviction>(std::move(engine), *std::move(eviction));
}

absl::StatusOr<std::unique_ptr<Observation>> StartObservationOnHost(std::shared_ptr<Device> device, LayerEngine& host,
                                                                    const SequenceView& sequence, const Policy& policy,
                                                                    const Budget& budget) {
  absl::StatusOr<std::unique_ptr<HostMirror>> mirror = HostMirror::Make(std::move(device), sequence, policy);
  if (!mirror.ok()) return mirror.status();
  auto engine = std::make_unique<MirroringEngine>(host, *std::move(mirror));
  absl::StatusOr<std::unique_ptr<Observation>> observation =
      engine->StartObservation(engine->sequence(), policy, budget);
  if (!observation.ok()) return observation.status();
  return std::make_unique<MirroredObservation>(std::move(engine), *std::move(observation));
}

}  // namespace kvsteward::engine::cuda
