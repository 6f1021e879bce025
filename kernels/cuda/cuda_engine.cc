// The CUDA backend: what has kernels runs on the device, all else on the host engine over copies.
#include <utility>

#include "kernels/cpu/thread_pool.h"
#include "kernels/cuda/compaction.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/device_eviction.h"
#include "kernels/cuda/on_host.h"
#include "kvsteward/engine/cuda.h"

namespace kvsteward::engine {
namespace {

// Units that compete for one budget: what the integer arithmetic of the head budgets carries.
constexpr size_t kMostCompeting = 4096;

bool RunsOnDevice(const Policy& policy, size_t units) {
  return engine::RunsOnDevice(policy) && (policy.layer.kind != LayerBudget::Kind::kGlobal || units <= kMostCompeting);
}

class CudaEngine final : public Engine {
 public:
  CudaEngine(std::shared_ptr<cuda::Device> device, int host_threads)
      : device_(std::move(device)), threads_(host_threads) {}

  std::string_view name() const override { return "cuda"; }

  absl::StatusOr<std::unique_ptr<Eviction>> StartEviction(const SequenceView& sequence, const Policy& policy,
                                                          const Budget& budget, PlanWants wants) override {
    KVS_RETURN_IF_ERROR(device_->Use());
    const auto on_host = [this, &sequence, policy, budget, wants](cuda::Scorer scorer) {
      return cuda::StartEvictionOnHost(device_, threads_, sequence, policy, budget, wants, scorer);
    };
    if (!RunsOnDevice(policy, sequence.units.size())) return on_host(cuda::Scorer::kDevice);
    return cuda::DeviceEviction::Start(device_, sequence, policy, budget, wants,
                                       [on_host] { return on_host(cuda::Scorer::kHost); });
  }

  absl::StatusOr<std::unique_ptr<Observation>> StartObservation(const SequenceView& sequence, const Policy& policy,
                                                                const Budget& budget) override {
    KVS_RETURN_IF_ERROR(device_->Use());
    return cuda::StartObservationOnHost(device_, threads_, sequence, policy, budget);
  }

  absl::StatusOr<Publishing> CompactUnits(const SequenceView& sequence, const Plan& plan,
                                          std::span<const UnitMove> moves, const TableView& table) override {
    KVS_RETURN_IF_ERROR(device_->Use());
    return cuda::CompactOnDevice(device_, sequence, plan, moves, table);
  }

  bool whole_sequences() const override { return true; }

 private:
  const std::shared_ptr<cuda::Device> device_;
  cpu::ThreadPool threads_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> NewCudaEngine(const CudaOptions& options) {
  absl::StatusOr<std::shared_ptr<cuda::Device>> device = cuda::Device::Open(options.ordinal, options.on_lost);
  if (!device.ok()) return device.status();
  return std::make_unique<CudaEngine>(*std::move(device), options.host_threads);
}

}  // namespace kvsteward::engine
