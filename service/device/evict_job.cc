#include "service/device/evict_job.h"

#include <algorithm>
#include <bit>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "service/device/inputs.h"
#include "service/device/plan_export.h"
#include "service/device/window.h"
#include "service/memory/outcome.h"
#include "service/memory/table_writer.h"

namespace kvsteward::device {
namespace {

uint64_t MicrosecondsSince(std::chrono::steady_clock::time_point start) {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - start).count());
}

absl::Status Cancelled() { return absl::CancelledError("the call was cancelled before it had changed anything"); }

// Core's word for a kind of norm: 0 is none.
uint8_t NameOf(engine::Norm kind) { return static_cast<uint8_t>(1 + static_cast<uint8_t>(kind)); }
engine::Norm KindOf(uint8_t name) { return name == 0 ? engine::Norm::kL2Squared : static_cast<engine::Norm>(name - 1); }

// How many of the first `count` bits of the mask are set.
int32_t CountBits(std::span<const uint64_t> mask, int32_t count) {
  int32_t set = 0;
  for (int32_t begin = 0; begin < count; begin += 64) {
    const uint64_t word = mask[static_cast<size_t>(begin / 64)];
    set += std::popcount(count - begin < 64 ? word & ((uint64_t{1} << (count - begin)) - 1) : word);
  }
  return set;
}

}  // namespace

EvictJob::EvictJob(core::RunEvict ask, std::shared_ptr<memory::LeasePool> pool)
    : ask_(std::move(ask)), pool_(std::move(pool)) {}

absl::Status EvictJob::CheckAccumulated() const {
  const engine::Policy& policy = *ask_.policy;
  if (!policy.running() || ask_.accumulated == nullptr) return absl::OkStatus();
  const engine::Policy& first = *ask_.accumulated;
  if (policy.signal == first.signal && policy.accumulate == first.accumulate && policy.group == first.group) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError("policy " + policy.name +
                                    " has other stages signal, accumulate and group than policy " + first.name +
                                    ", which the running scores of sequence " + std::to_string(ask_.sequence) +
                                    " are of; use the same ones, or create the sequence anew");
}

absl::Status EvictJob::Start(engine::Engine& engine) {
  times_.queue_us = MicrosecondsSince(asked_at_);
  uint64_t residents = 0;
  for (const core::Unit& unit : ask_.units) {
    units_.push_back({.row = unit.row,
                      .length = unit.kept + (ask_.written_tokens - unit.base),
                      .stored = unit.kept,
                      .appended_position = unit.base,
                      .normed = unit.normed,
                      .scored = unit.scored});
    residents += static_cast<uint64_t>(units_.back().length);
  }
  if (absl::Status status = CheckAccumulated(); !status.ok()) return status;
  const core::EvictSpec& spec = *ask_.spec;
  const core::LeaseSpec& lease = pool_->spec();
  const std::span<const std::byte> statistics = pool_->Bytes(core::ObjectKind::kStatistics, 0);
  absl::StatusOr<engine::WindowView> window =
      ResolveWindow(spec, lease, statistics, ask_.written_tokens, &window_positions_);
  if (!window.ok()) return window.status();
  absl::StatusOr<engine::InputView> inputs =
      ResolveInputs(spec, lease, statistics, ask_.written_tokens, residents, &classes_);
  if (!inputs.ok()) return inputs.status();
  sequence_ = {.geometry = lease.geometry,
               .pool = pool_->View(),
               .units = units_,
               .window = *window,
               .inputs = *inputs,
               .seen = ask_.written_tokens,
               .observed = ask_.observed_tokens,
               .normed_kind = KindOf(ask_.norms),
               .stop = &cancelled_};
  if (ask_.observe) {
    auto observation = engine.StartObservation(sequence_, *ask_.policy, spec.budget);
    if (!observation.ok()) return observation.status();
    observation_ = *std::move(observation);
  } else {
    // Running scores that stay are counted by the masks.
    const bool scored =
        ask_.policy->running() || std::ranges::any_of(units_, [](const auto& u) { return u.scored > 0; });
    auto eviction =
        engine.StartEviction(sequence_, *ask_.policy, spec.budget,
                             {.masks = ask_.export_plan || scored, .scores = ask_.export_plan && ask_.export_scores});
    if (!eviction.ok()) return eviction.status();
    eviction_ = *std::move(eviction);
  }
  observed_ = ask_.observed_tokens;
  if (ask_.policy->running() && window->rows > 0) observed_ = std::max(observed_, window->positions.back() + 1);
  return absl::OkStatus();
}

std::optional<core::EvictPlanned> EvictJob::PlanLayer(engine::Engine& engine) {
  if (!std::exchange(started_, true)) {
    if (absl::Status status = Start(engine); !status.ok()) return Refuse(status);
  }
  if (!finished()) {
    if (cancelled_) return Refuse(Cancelled());
    const auto start = std::chrono::steady_clock::now();
    const absl::Status status = eviction_ ? eviction_->Step() : observation_->Step();
    if (observation_) times_.score_us += MicrosecondsSince(start);
    if (status.code() == absl::StatusCode::kCancelled) return Refuse(Cancelled());
    if (!status.ok()) return Refuse(status);
    if (!finished()) return std::nullopt;
  }
  if (cancelled_) return Refuse(Cancelled());
  return ask_.observe ? FinishObserve() : FinishEvict();
}

core::EvictPlanned EvictJob::Refuse(const absl::Status& status) const {
  core::EvictPlanned answer;
  answer.job = ask_.job;
  answer.outcome = memory::ToOutcome(status);
  answer.times = times_;
  // Layers that were scored have their norms overwritten by those of another kind.
  const engine::Policy& policy = *ask_.policy;
  if (eviction_ && policy.reads_norms() && NameOf(policy.norm()) != ask_.norms) answer.norms = 0;
  return answer;
}

core::EvictPlanned EvictJob::FinishObserve() {
  if (absl::Status status = observation_->Commit(); !status.ok()) return Refuse(status);
  observation_.reset();
  core::EvictPlanned answer;
  answer.job = ask_.job;
  answer.observed_tokens = observed_;
  answer.times = times_;
  return answer;
}

core::EvictPlanned EvictJob::FinishEvict() {
  times_.score_us = static_cast<uint64_t>(eviction_->score_seconds() * 1e6);
  times_.select_us = static_cast<uint64_t>(eviction_->select_seconds() * 1e6);
  plan_ = eviction_->TakePlan();
  if (ask_.export_plan) {
    const absl::Status status = ExportPlan(plan_, units_, ask_.sequence, ask_.export_scores, ask_.plan,
                                           pool_->Bytes(core::ObjectKind::kPlans, 0));
    if (!status.ok()) return Refuse(status);
  }
  plan_.scores = {};
  core::EvictPlanned answer;
  answer.job = ask_.job;
  answer.times = times_;
  answer.budget_tokens = static_cast<int32_t>(plan_.budget_tokens);
  answer.no_op = plan_.no_op;
  if (!plan_.no_op) {
    answer.kept = plan_.kept;
    answer.unsplit_layers = plan_.unsplit_layers;
    answer.on_host = plan_.on_host;
    if (ask_.policy->reads_norms()) answer.norms = NameOf(ask_.policy->norm());
    const bool commits = ask_.policy->running() && !ask_.plan_only;
    if (commits) answer.observed_tokens = observed_;
    // What compaction takes along.
    for (size_t u = 0; u < units_.size(); ++u) {
      engine::UnitView& unit = units_[u];
      if (answer.norms) unit.normed = unit.length;
      if (answer.observed_tokens > 0) unit.scored = unit.length;
      answer.scored.push_back(unit.scored == 0 ? 0 : CountBits(plan_.UnitMask(static_cast<int32_t>(u)), unit.scored));
    }
    if (commits) {  // last: nothing else is left that could fail
      if (absl::Status status = eviction_->CommitRunning(); !status.ok()) return Refuse(status);
    }
  }
  eviction_.reset();
  return answer;
}

absl::Status EvictJob::CompactAndPublish(engine::Engine& engine, std::span<const core::CompactTo> units) {
  std::vector<engine::UnitMove> moves;
  moves.reserve(units.size());
  for (const core::CompactTo& to : units) moves.push_back({static_cast<int32_t>(to.unit), to.row});
  const std::span<std::byte> tables = pool_->Bytes(core::ObjectKind::kTables, ask_.table.chunk);
  engine::TableView table;
  if (memory::HasTable(tables, ask_.table, units_.size())) {
    table = {.table = tables.data() + ask_.table.offset,
             .row_capacity = ask_.table.row_capacity,
             .base_tokens = ask_.written_tokens};
  }
  const absl::StatusOr<engine::Publishing> publishing = engine.CompactUnits(sequence_, plan_, moves, table);
  if (!publishing.ok()) return publishing.status();
  if (*publishing == engine::Publishing::kDone) {
    progress_.units += static_cast<uint32_t>(units.size());
    return absl::OkStatus();
  }
  for (const core::CompactTo& to : units) {
    // A table that does not have the row would be core's mistake; the old row stays valid then.
    absl::Status status =
        memory::PublishRow(tables, ask_.table, to.unit, plan_.kept[to.unit], ask_.written_tokens, to.row);
    if (!status.ok()) return status;
    ++progress_.units;
  }
  return absl::OkStatus();
}

std::optional<core::UnitsCompacted> EvictJob::CompactLayer(engine::Engine& engine, const core::CompactUnits& wave) {
  const auto start = std::chrono::steady_clock::now();
  const std::span<const core::CompactTo> left = std::span(wave.units).subspan(progress_.units);
  const auto layer_of = [&](const core::CompactTo& to) { return int64_t{to.unit} / pool_->spec().geometry.kv_heads; };
  const int64_t layer = layer_of(left.front());
  absl::Status status;
  const bool stopped = cancelled_ && layer != layer_;
  if (!stopped) {
    const auto end = engine.whole_sequences() ? left.end()
                                              : std::find_if(left.begin(), left.end(),
                                                             [&](const auto& to) { return layer_of(to) != layer; });
    const std::span<const core::CompactTo> next(left.begin(), end);
    layer_ = layer_of(next.back());
    status = CompactAndPublish(engine, next);
  }
  progress_.compact_us += MicrosecondsSince(start);
  if (!stopped && status.ok() && progress_.units < wave.units.size()) return std::nullopt;
  return StopCompacting(status);
}

core::UnitsCompacted EvictJob::StopCompacting(const absl::Status& status) {
  progress_.job = ask_.job;
  progress_.outcome = memory::ToOutcome(status);
  return std::exchange(progress_, {});
}

}  // namespace kvsteward::device
