#include "service/device/evict_job.h"

#include <algorithm>
#include <utility>

#include "absl/status/statusor.h"
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

absl::Status Cancelled() { return absl::CancelledError("the eviction was cancelled while it was planned"); }

}  // namespace

EvictJob::EvictJob(core::RunEvict ask, std::shared_ptr<memory::LeasePool> pool)
    : ask_(std::move(ask)), pool_(std::move(pool)) {}

absl::Status EvictJob::StartPlanning(engine::Engine& engine) {
  times_.queue_us = MicrosecondsSince(asked_at_);
  for (const core::Unit& unit : ask_.units) {
    units_.push_back({.row = unit.row,
                      .length = unit.kept + (ask_.written_tokens - unit.base),
                      .stored = unit.kept,
                      .appended_position = unit.base,
                      .normed = unit.normed});
  }
  const core::EvictSpec& spec = *ask_.spec;
  absl::StatusOr<engine::WindowView> window = ResolveWindow(
      spec, pool_->spec(), pool_->Bytes(core::ObjectKind::kStatistics, 0), ask_.written_tokens, &window_positions_);
  if (!window.ok()) return window.status();
  const engine::SequenceView sequence{.geometry = pool_->spec().geometry,
                                      .pool = pool_->View(),
                                      .units = units_,
                                      .window = *window,
                                      .seen = ask_.written_tokens,
                                      .stop = &cancelled_};
  absl::StatusOr<engine::EvictionPlanner> planner = engine::EvictionPlanner::Start(
      engine, sequence, spec.policy, spec.budget, ask_.export_plan && ask_.export_scores);
  if (!planner.ok()) return planner.status();
  planner_ = *std::move(planner);
  return absl::OkStatus();
}

std::optional<core::EvictPlanned> EvictJob::PlanLayer(engine::Engine& engine) {
  if (!std::exchange(started_, true)) {
    if (absl::Status status = StartPlanning(engine); !status.ok()) return Finish(status);
  }
  if (planner_->finished()) return Finish(absl::OkStatus());
  if (cancelled_) return Finish(Cancelled());
  if (absl::Status status = planner_->Step(); !status.ok()) {
    return Finish(status.code() == absl::StatusCode::kCancelled ? Cancelled() : status);
  }
  if (!planner_->finished()) return std::nullopt;
  return Finish(absl::OkStatus());
}

core::EvictPlanned EvictJob::Finish(absl::Status status) {
  core::EvictPlanned answer;
  answer.job = ask_.job;
  if (planner_) {
    times_.score_us = static_cast<uint64_t>(planner_->score_seconds() * 1e6);
    times_.select_us = static_cast<uint64_t>(planner_->select_seconds() * 1e6);
    plan_ = planner_->TakePlan();
    planner_.reset();
  }
  if (status.ok() && ask_.export_plan) {
    status = ExportPlan(plan_, units_, ask_.sequence, ask_.export_scores, ask_.plan,
                        pool_->Bytes(core::ObjectKind::kPlans, 0));
  }
  plan_.scores = {};
  answer.times = times_;
  answer.outcome = memory::ToOutcome(status);
  if (!status.ok()) return answer;
  answer.budget_tokens = static_cast<int32_t>(plan_.budget_tokens);
  answer.no_op = plan_.no_op;
  if (plan_.no_op) return answer;
  answer.kept = plan_.kept;
  answer.norms_cached = ask_.spec->policy.reads_values();
  if (answer.norms_cached) {
    for (engine::UnitView& unit : units_) unit.normed = unit.length;
  }
  return answer;
}

std::optional<core::UnitsCompacted> EvictJob::CompactLayer(engine::Engine& engine, const core::CompactUnits& wave) {
  const auto start = std::chrono::steady_clock::now();
  const engine::Geometry& geometry = pool_->spec().geometry;
  const std::span<std::byte> tables = pool_->Bytes(core::ObjectKind::kTables, ask_.table.chunk);
  const size_t end = std::min(wave.units.size(), size_t{progress_.units} + static_cast<size_t>(geometry.kv_heads));
  bool stopped = false;
  while (progress_.units < end) {
    const core::CompactTo& to = wave.units[progress_.units];
    stopped = cancelled_;
    if (stopped) break;
    engine.CompactUnit(geometry, pool_->View(), units_[to.unit], plan_.UnitMask(static_cast<int32_t>(to.unit)), to.row);
    // A table that does not have the row would be core's mistake; the old row stays valid then.
    stopped = !memory::PublishRow(tables, ask_.table, to.unit, plan_.kept[to.unit], ask_.written_tokens, to.row).ok();
    if (stopped) break;
    ++progress_.units;
  }
  progress_.compact_us += MicrosecondsSince(start);
  if (!stopped && progress_.units < wave.units.size()) return std::nullopt;
  progress_.job = ask_.job;
  return std::exchange(progress_, {});
}

}  // namespace kvsteward::device
