// One job on the host engine, seen from the shared memory.
#include "service/device/evict_job.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "kernels/cpu/host_engine.h"
#include "tests/device/lease_rig.h"

namespace kvsteward::device {
namespace {

std::shared_ptr<core::EvictSpec> Changed(const core::RunEvict& ask) {
  return std::make_shared<core::EvictSpec>(*ask.spec);
}

// The host engine, on whom the job is cancelled as soon as a layer is being scored.
class CancelledWithinLayer : public engine::LayerEngine {
 public:
  EvictJob* job = nullptr;

  std::string_view name() const override { return host_->name(); }
  absl::Status ScoreLayer(const engine::SequenceView& sequence, const engine::Policy& policy, int64_t k, int32_t layer,
                          engine::LayerScores* out) override {
    job->Cancel();
    return host_->ScoreLayer(sequence, policy, k, layer, out);
  }
  absl::Status AccumulateLayer(const engine::SequenceView& sequence, const engine::Policy& policy, int64_t k,
                               int32_t layer, std::vector<float>* running) override {
    job->Cancel();
    return host_->AccumulateLayer(sequence, policy, k, layer, running);
  }
  void StoreRunning(const engine::SequenceView&, int32_t, std::span<const float>) override {
    ADD_FAILURE() << "nothing was accumulated";
  }
  void SelectLayer(const engine::SequenceView&, const engine::Policy&, const engine::LayerScores&,
                   engine::LayerChoice&) override {
    ADD_FAILURE() << "nothing was scored";
  }
  absl::StatusOr<engine::Publishing> CompactUnits(const engine::SequenceView&, const engine::Plan&,
                                                  std::span<const engine::UnitMove>,
                                                  const engine::TableView&) override {
    ADD_FAILURE() << "nothing was planned";
    return engine::Publishing::kByCaller;
  }

 private:
  std::unique_ptr<engine::LayerEngine> host_ = engine::NewHostLayerEngine(2);
};

class EvictJobTest : public testing::Test {
 protected:
  core::EvictPlanned Plan(EvictJob& job) {
    for (int layer = 0; layer < LeaseRig::kGeometry.layers; ++layer) {
      if (std::optional<core::EvictPlanned> planned = job.PlanLayer(*engine_)) return *planned;
    }
    ADD_FAILURE() << "no answer after the last layer";
    return {};
  }

  uint32_t Compact(EvictJob& job, const core::CompactUnits& wave) {
    while (true) {
      if (std::optional<core::UnitsCompacted> compacted = job.CompactLayer(*engine_, wave)) return compacted->units;
    }
  }

  std::unique_ptr<engine::Engine> engine_ = engine::NewHostEngine(1);
  LeaseRig rig_{100};
};

TEST_F(EvictJobTest, KeptTokensAreMovedWithTheirPositionsAndPublished) {
  EvictJob job(rig_.Ask(5), rig_.pool());
  EXPECT_FALSE(job.PlanLayer(*engine_).has_value());
  const std::optional<core::EvictPlanned> planned = job.PlanLayer(*engine_);
  ASSERT_TRUE(planned.has_value());
  EXPECT_TRUE(planned->outcome.ok()) << planned->outcome.message;
  EXPECT_EQ(planned->job, 5u);
  EXPECT_FALSE(planned->no_op);
  EXPECT_FALSE(planned->norms.has_value());
  EXPECT_EQ(planned->observed_tokens, -1);
  EXPECT_EQ(planned->budget_tokens, 32);
  EXPECT_EQ(planned->kept, (std::vector<int32_t>{32, 32, 32, 32}));
  for (uint32_t u = 0; u < LeaseRig::kUnits; ++u) EXPECT_EQ(rig_.Word(u), 0u);

  EXPECT_EQ(Compact(job, LeaseRig::Wave(5, 0, 3, 2)), 3u);
  EXPECT_EQ(rig_.Word(3), 0u);
  EXPECT_EQ(Compact(job, LeaseRig::Wave(5, 3, 4, 2)), 1u);
  for (uint32_t u = 0; u < LeaseRig::kUnits; ++u) {
    const kvs_row* const row = kvs_current_row(rig_.table(), u);
    EXPECT_EQ(rig_.Word(u), 3u);
    EXPECT_EQ(row->row_len, 32u);
    EXPECT_EQ(row->base_tokens, 100u);
    ASSERT_EQ(row->blocks, 2u);
    for (uint32_t j = 0; j < 32; ++j) {
      const int32_t position = static_cast<int32_t>(j < 4 ? j : 100 - 32 + j);
      EXPECT_EQ(rig_.Key(u, j), LeaseRig::KeyOf(u, position));
      EXPECT_EQ(rig_.Value(u, j), -LeaseRig::KeyOf(u, position));
      EXPECT_EQ(rig_.pool()->View().positions[row->block[j / 16] * 16 + j % 16], position);
    }
  }
}

TEST_F(EvictJobTest, QueriesComeFromTheWindowSlotAndNormsAreCached) {
  // Every query points at keys with positive elements, and keys grow with their position: the newest win.
  auto* const queries = reinterpret_cast<float*>(rig_.Statistics().data() + KVS_WINDOWS_OFFSET);
  std::fill_n(queries, 2 * 4 * 8 * 8, 0.01f);
  core::RunEvict ask = rig_.Ask(5, 20);
  const auto spec = Changed(ask);
  ask.policy = LeaseRig::Changed("ahakv-ada", [](engine::Policy& p) { p.protect = {.sinks = 2, .recent = 4}; });
  spec->window_rows = 8;
  ask.spec = spec;
  ask.export_plan = ask.export_scores = true;
  ask.plan = {.offset = 128, .bytes = core::PlanBytes({100, 100, 100, 100}, true)};
  EvictJob job(ask, rig_.pool());
  const core::EvictPlanned planned = Plan(job);
  ASSERT_TRUE(planned.outcome.ok()) << planned.outcome.message;
  ASSERT_TRUE(planned.norms.has_value());
  EXPECT_NE(*planned.norms, 0);
  EXPECT_EQ(planned.kept[0] + planned.kept[1], 40);
  EXPECT_EQ(rig_.pool()->View().norms[17], 8 * 17.0f * 17.0f);  // unit 0, token 17

  const auto* const base = rig_.pool()->Bytes(core::ObjectKind::kPlans, 0).data() + 128;
  const auto* const plan = reinterpret_cast<const kvs_plan*>(base);
  EXPECT_EQ(plan->sequence, 9u);
  EXPECT_EQ(plan->budget_tokens, 20u);
  for (uint32_t u = 0; u < LeaseRig::kUnits; ++u) {
    const kvs_unit_plan& unit = reinterpret_cast<const kvs_unit_plan*>(plan + 1)[u];
    ASSERT_EQ(static_cast<int32_t>(unit.kept), planned.kept[u]);
    const auto* const indices = reinterpret_cast<const uint32_t*>(base + unit.indices_offset);
    EXPECT_EQ(indices[0], 0u);
    EXPECT_EQ(indices[1], 1u);
    EXPECT_EQ(indices[unit.kept - 1], 99u);
    EXPECT_GT(indices[2], 50u);
    EXPECT_TRUE(std::is_sorted(indices, indices + unit.kept));
    const auto* const scores = reinterpret_cast<const float*>(base + unit.scores_offset);
    EXPECT_EQ(scores[0], 0.0f);
    EXPECT_GT(scores[95], 0.0f);
    EXPECT_EQ(scores[96], 0.0f);
  }

  core::CompactUnits wave{.job = 5, .units = {}};
  for (uint32_t u = 0; u < LeaseRig::kUnits; ++u) {
    wave.units.push_back({.unit = u, .row = {{128 + u * 16, BlocksFor(static_cast<uint64_t>(planned.kept[u]))}}});
  }
  EXPECT_EQ(Compact(job, wave), 4u);
  EXPECT_EQ(rig_.pool()->View().norms[128 * 16 + 1], 8.0f);  // norms move along: token 1 of unit 0
}

TEST_F(EvictJobTest, WithinBudgetNothingIsDone) {
  core::RunEvict ask = rig_.Ask(5, 100);
  EvictJob job(ask, rig_.pool());
  const std::optional<core::EvictPlanned> planned = job.PlanLayer(*engine_);
  ASSERT_TRUE(planned.has_value());
  EXPECT_TRUE(planned->outcome.ok());
  EXPECT_TRUE(planned->no_op);
  EXPECT_TRUE(planned->kept.empty());
  EXPECT_FALSE(planned->norms.has_value());
}

TEST_F(EvictJobTest, RefusalsSayWhyAndChangeNothing) {
  core::RunEvict ask = rig_.Ask(5);
  ask.policy = LeaseRig::Changed("snapkv", [](engine::Policy&) {});
  EvictJob without_window(ask, rig_.pool());
  const core::EvictPlanned missing = Plan(without_window);
  EXPECT_EQ(missing.outcome.code, core::Code::kInvalidArgument);
  EXPECT_NE(missing.outcome.message.find("window"), std::string::npos);
  EXPECT_TRUE(missing.kept.empty());

  auto spec = Changed(ask);
  spec->window_rows = 8;
  spec->window_slot = 1;
  ask.spec = spec;
  EvictJob foreign_slot(ask, rig_.pool());
  EXPECT_NE(Plan(foreign_slot).outcome.message.find("window.slot is 1"), std::string::npos);

  // A worker that writes nonsense hears of it.
  auto* const queries = reinterpret_cast<float*>(rig_.Statistics().data() + KVS_WINDOWS_OFFSET);
  std::fill_n(queries, 2 * 4 * 8 * 8, std::numeric_limits<float>::quiet_NaN());
  spec = Changed(ask);
  spec->window_slot = 0;
  spec->budget.amount = 40;
  ask.spec = spec;
  EvictJob bad_numbers(ask, rig_.pool());
  const core::EvictPlanned bad = Plan(bad_numbers);
  EXPECT_EQ(bad.outcome.code, core::Code::kInvalidArgument) << bad.outcome.message;
  EXPECT_TRUE(bad.kept.empty());
  for (uint32_t u = 0; u < LeaseRig::kUnits; ++u) EXPECT_EQ(rig_.Word(u), 0u);

  core::RunEvict crowded = rig_.Ask(6);
  crowded.export_plan = true;
  crowded.plan = {.offset = 65536 - 64, .bytes = 4096};
  EvictJob no_room(crowded, rig_.pool());
  EXPECT_EQ(Plan(no_room).outcome.code, core::Code::kResourceExhausted);
}

TEST_F(EvictJobTest, ACancelledJobStopsBeforeTheNextLayerOrUnit) {
  EvictJob planning(rig_.Ask(5), rig_.pool());
  EXPECT_FALSE(planning.PlanLayer(*engine_).has_value());
  planning.Cancel();
  EXPECT_EQ(planning.PlanLayer(*engine_)->outcome.code, core::Code::kCancelled);

  EvictJob compacting(rig_.Ask(6), rig_.pool());
  EXPECT_TRUE(Plan(compacting).outcome.ok());
  EXPECT_EQ(Compact(compacting, LeaseRig::Wave(6, 0, 2, 2)), 2u);
  compacting.Cancel();
  EXPECT_EQ(Compact(compacting, LeaseRig::Wave(6, 2, 4, 2)), 0u);
  for (uint32_t u = 0; u < LeaseRig::kUnits; ++u) EXPECT_EQ(rig_.Word(u), u < 2 ? 3u : 0u);
  EXPECT_EQ(rig_.Key(3, 99), LeaseRig::KeyOf(3, 99));  // the old rows are whole
}

TEST_F(EvictJobTest, ACancelledJobCompactsTheLayerThatItHasBegun) {
  EvictJob job(rig_.Ask(6), rig_.pool());
  EXPECT_TRUE(Plan(job).outcome.ok());
  EXPECT_EQ(Compact(job, LeaseRig::Wave(6, 0, 1, 2)), 1u);  // free blocks sufficed for half of a layer
  job.Cancel();
  EXPECT_EQ(Compact(job, LeaseRig::Wave(6, 1, 4, 2)), 1u);
  for (uint32_t u = 0; u < LeaseRig::kUnits; ++u) EXPECT_EQ(rig_.Word(u), u < 2 ? 3u : 0u);
}

TEST_F(EvictJobTest, ACancelledJobStopsWithinALayer) {
  // Whoever read these queries would refuse them.
  auto* const queries = reinterpret_cast<float*>(rig_.Statistics().data() + KVS_WINDOWS_OFFSET);
  std::fill_n(queries, 2 * 4 * 8 * 8, std::numeric_limits<float>::quiet_NaN());
  core::RunEvict ask = rig_.Ask(5, 40);
  const auto spec = Changed(ask);
  ask.policy = LeaseRig::Changed("snapkv", [](engine::Policy& p) { p.protect = {.sinks = 2, .recent = 4}; });
  spec->window_rows = 8;
  ask.spec = spec;
  EvictJob job(ask, rig_.pool());
  CancelledWithinLayer engine;
  engine.job = &job;
  const std::optional<core::EvictPlanned> planned = job.PlanLayer(engine);
  ASSERT_TRUE(planned.has_value());
  EXPECT_EQ(planned->outcome.code, core::Code::kCancelled) << planned->outcome.message;
  EXPECT_TRUE(planned->kept.empty());
}

}  // namespace
}  // namespace kvsteward::device
