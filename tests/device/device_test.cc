// The device's thread, with an engine that does what the test says.
#include "service/device/device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <new>
#include <string>
#include <vector>

#include "kernels/plan/layer_engine.h"
#include "tests/device/lease_rig.h"
#include "tests/memory/inbox.h"

namespace kvsteward::device {
namespace {

// Scores all alike and keeps each head's first tokens. The hooks run on the device's thread.
class ScriptedEngine : public engine::LayerEngine {
 public:
  std::function<absl::Status(int64_t seen, int32_t layer)> on_score = [](int64_t, int32_t) { return absl::OkStatus(); };
  std::function<void()> on_store = [] {};
  std::function<void()> on_compact = [] {};

  std::string_view name() const override { return "scripted"; }
  absl::Status ScoreLayer(const engine::SequenceView& sequence, const engine::Policy&, int64_t, int32_t layer,
                          engine::LayerScores* out) override {
    const auto heads = static_cast<size_t>(sequence.geometry.kv_heads);
    out->offsets = {0};
    for (const engine::UnitView& unit : sequence.units.subspan(static_cast<size_t>(layer) * heads, heads)) {
      out->offsets.push_back(out->offsets.back() + unit.length);
    }
    out->scores.assign(static_cast<size_t>(out->offsets.back()), 1.0f);
    return on_score(sequence.seen, layer);
  }
  absl::Status AccumulateLayer(const engine::SequenceView& sequence, const engine::Policy&, int64_t, int32_t layer,
                               std::vector<float>*) override {
    return on_score(sequence.seen, layer);
  }
  void StoreRunning(const engine::SequenceView&, int32_t, std::span<const float>) override { on_store(); }
  void SelectLayer(const engine::SequenceView&, const engine::Policy&, const engine::LayerScores&,
                   engine::LayerChoice& choice) override {
    for (size_t head = 0; head < choice.kept.size(); ++head) {
      choice.kept[head] = static_cast<int32_t>(choice.total) / static_cast<int32_t>(choice.kept.size());
      for (int32_t j = 0; j < choice.kept[head]; ++j) {
        choice.masks[head][static_cast<size_t>(j / 64)] |= uint64_t{1} << (j % 64);
      }
    }
  }
  absl::StatusOr<engine::Publishing> CompactUnits(const engine::SequenceView&, const engine::Plan&,
                                                  std::span<const engine::UnitMove> moves,
                                                  const engine::TableView&) override {
    for (size_t i = 0; i < moves.size(); ++i) on_compact();
    return engine::Publishing::kByCaller;
  }
};

class DeviceTest : public testing::Test {
 protected:
  void Start() { device_.Start(inbox_.Putter()); }
  core::RunEvict Ask(core::JobId job, const std::string& tenant, core::LeaseId lease) {
    core::RunEvict ask = rig_.Ask(job);
    ask.tenant = tenant;
    ask.lease = lease;
    ask.policy = LeaseRig::Changed("streaming-llm", [](engine::Policy& p) { p.protect = {}; });
    return ask;
  }
  // As Ask: the first 8 of `written` tokens' rows.
  core::RunEvict AskObserve(core::JobId job, const std::string& tenant, core::LeaseId lease) {
    core::RunEvict ask = Ask(job, tenant, lease);
    ask.observe = true;
    ask.policy = LeaseRig::Changed("h2o", [](engine::Policy&) {});
    auto spec = std::make_shared<core::EvictSpec>();
    spec->window_rows = 8;
    spec->window_positions = {0, 1, 2, 3, 4, 5, 6, 7};
    ask.spec = spec;
    return ask;
  }

  ScriptedEngine* engine_ = new ScriptedEngine;  // the device's
  EventInbox inbox_;
  Gate gate_;
  LeaseRig rig_{100};
  Device device_{std::unique_ptr<engine::Engine>(engine_)};  // ends first
};

TEST_F(DeviceTest, LayersOfJobsTakeTurnsOverTenantsAndLeases) {
  std::vector<int64_t> order;  // the device's thread, until the answers are here
  engine_->on_score = [&](int64_t seen, int32_t) {
    gate_.Wait();
    order.push_back(seen);
    return absl::OkStatus();
  };
  Start();
  // Jobs are told apart by how many tokens they have seen. The first waits in its first layer until all are there.
  const auto run = [&](core::JobId job, const std::string& tenant, core::LeaseId lease) {
    core::RunEvict ask = Ask(job, tenant, lease);
    ask.written_tokens = 90 + static_cast<int32_t>(job);
    device_.RunEvict(ask, rig_.pool());
  };
  run(1, "a", 1);
  run(2, "a", 1);
  run(3, "a", 2);
  run(4, "b", 3);
  gate_.Open();
  const std::vector<core::Event> answers = inbox_.Wait(4);
  // No item of tenant b waits for more than one of tenant a.
  EXPECT_EQ(order, (std::vector<int64_t>{91, 94, 93, 94, 91, 93, 92, 92}));
  std::vector<core::JobId> finished;
  for (const core::Event& answer : answers) finished.push_back(std::get<core::EvictPlanned>(answer).job);
  EXPECT_EQ(finished, (std::vector<core::JobId>{4, 1, 3, 2}));
}

TEST_F(DeviceTest, LayersOfAnObserveTakeTurnsLikeAnEvictions) {
  std::vector<int64_t> order;  // the device's thread, until the answers are here
  engine_->on_score = [&](int64_t seen, int32_t) {
    gate_.Wait();
    order.push_back(seen);
    return absl::OkStatus();
  };
  int stored = 0;
  engine_->on_store = [&] { ++stored; };
  Start();
  device_.RunEvict(AskObserve(1, "a", 1), rig_.pool());
  core::RunEvict other = Ask(2, "b", 2);
  other.written_tokens = 99;
  device_.RunEvict(other, rig_.pool());
  gate_.Open();
  for (const core::Event& event : inbox_.Wait(2)) {
    const auto& planned = std::get<core::EvictPlanned>(event);
    EXPECT_TRUE(planned.outcome.ok()) << planned.outcome.message;
    EXPECT_EQ(planned.observed_tokens, planned.job == 1 ? 8 : -1);
  }
  EXPECT_EQ(order, (std::vector<int64_t>{100, 99, 100, 99}));
  EXPECT_EQ(stored, LeaseRig::kGeometry.layers);
}

TEST_F(DeviceTest, AnObserveThatIsCancelledStoresNothing) {
  for (const int32_t cancelled_in : {0, 1}) {  // the last one, too
    engine_->on_score = [this, cancelled_in](int64_t, int32_t layer) {
      if (layer == cancelled_in) device_.CancelJob(7);
      return absl::OkStatus();
    };
    engine_->on_store = [] { ADD_FAILURE() << "it was cancelled"; };
    if (cancelled_in == 0) Start();
    device_.RunEvict(AskObserve(7, "a", 1), rig_.pool());
    const auto planned = inbox_.WaitFor<core::EvictPlanned>();
    EXPECT_EQ(planned.outcome.code, core::Code::kCancelled);
    EXPECT_EQ(planned.observed_tokens, -1);
    device_.EndJob(7);
    inbox_.WaitFor<core::JobEnded>();
  }
}

TEST_F(DeviceTest, ALargeWaveDoesNotKeepOthersWaiting) {
  std::vector<char> order;  // the device's thread, until the answers are here
  engine_->on_score = [&](int64_t seen, int32_t) {
    if (seen != 100) order.push_back('s');
    return absl::OkStatus();
  };
  engine_->on_compact = [&] {
    gate_.Wait();
    order.push_back('c');
  };
  Start();
  device_.RunEvict(Ask(1, "a", 1), rig_.pool());
  inbox_.WaitFor<core::EvictPlanned>();
  device_.CompactUnits(LeaseRig::Wave(1, 0, 4, 2));
  core::RunEvict other = Ask(2, "b", 2);
  other.written_tokens = 99;
  device_.RunEvict(other, rig_.pool());
  gate_.Open();
  inbox_.Wait(2);
  // Two units are a layer's worth. Either job's first item may come first: both may wait when the device looks.
  EXPECT_THAT(std::string(order.begin(), order.end()), testing::AnyOf("ccsccs", "sccscc"));
}

TEST_F(DeviceTest, AJobIsPlannedCompactedAndEnded) {
  Start();
  EXPECT_EQ(device_.backend(), "scripted");
  device_.RunEvict(Ask(7, "a", 1), rig_.pool());
  const auto planned = inbox_.WaitFor<core::EvictPlanned>();
  EXPECT_EQ(planned.job, 7u);
  EXPECT_EQ(planned.kept, std::vector<int32_t>(4, 32));
  device_.CompactUnits(LeaseRig::Wave(7, 0, 2, 2));
  EXPECT_EQ(inbox_.WaitFor<core::UnitsCompacted>().units, 2u);
  device_.CompactUnits(LeaseRig::Wave(7, 2, 4, 2));
  EXPECT_EQ(inbox_.WaitFor<core::UnitsCompacted>().units, 2u);
  for (uint32_t u = 0; u < LeaseRig::kUnits; ++u) EXPECT_EQ(rig_.Word(u), 3u);
  device_.EndJob(7);
  EXPECT_EQ(inbox_.WaitFor<core::JobEnded>().job, 7u);
  EXPECT_EQ(rig_.pool().use_count(), 2);  // the rig's, and this one
}

TEST_F(DeviceTest, ACancelStopsBeforeTheNextUnits) {
  int compacted = 0;
  engine_->on_compact = [&] {
    if (++compacted == 2) device_.CancelJob(7);
  };
  Start();
  device_.RunEvict(Ask(7, "a", 1), rig_.pool());
  inbox_.WaitFor<core::EvictPlanned>();
  device_.CompactUnits(LeaseRig::Wave(7, 0, 4, 2));
  EXPECT_EQ(inbox_.WaitFor<core::UnitsCompacted>().units, 2u);
  EXPECT_EQ(compacted, 2);
  for (uint32_t u = 0; u < LeaseRig::kUnits; ++u) EXPECT_EQ(rig_.Word(u), u < 2 ? 3u : 0u);
  device_.EndJob(7);
  inbox_.WaitFor<core::JobEnded>();
}

TEST_F(DeviceTest, ACancelStopsBeforeTheNextLayer) {
  engine_->on_score = [&](int64_t, int32_t layer) {
    EXPECT_EQ(layer, 0);
    device_.CancelJob(7);
    return absl::OkStatus();
  };
  Start();
  device_.RunEvict(Ask(7, "a", 1), rig_.pool());
  const auto planned = inbox_.WaitFor<core::EvictPlanned>();
  EXPECT_EQ(planned.outcome.code, core::Code::kCancelled);
  EXPECT_TRUE(planned.kept.empty());
}

TEST_F(DeviceTest, EndingARunningJobAnswersItFirstAndThenLetsGo) {
  Gate entered;
  engine_->on_score = [&](int64_t, int32_t) {
    entered.Open();
    gate_.Wait();
    return absl::OkStatus();
  };
  Start();
  device_.RunEvict(Ask(7, "a", 1), rig_.pool());
  entered.Wait();
  device_.EndJob(7);
  gate_.Open();
  const std::vector<core::Event> answers = inbox_.Wait(2);
  ASSERT_EQ(answers.size(), 2u);
  EXPECT_EQ(std::get<core::EvictPlanned>(answers[0]).outcome.code, core::Code::kCancelled);
  EXPECT_EQ(std::get<core::JobEnded>(answers[1]).job, 7u);
  EXPECT_EQ(rig_.pool().use_count(), 2);
}

TEST_F(DeviceTest, WhatTheEngineRefusesIsTheAnswerAndOthersGoOn) {
  engine_->on_score = [](int64_t seen, int32_t layer) {
    return seen == 99 && layer == 1 ? absl::InvalidArgumentError("keys has NaN") : absl::OkStatus();
  };
  Start();
  core::RunEvict bad = Ask(7, "a", 1);
  bad.written_tokens = 99;
  device_.RunEvict(bad, rig_.pool());
  device_.RunEvict(Ask(8, "b", 2), rig_.pool());
  for (const core::Event& event : inbox_.Wait(2)) {
    const auto& planned = std::get<core::EvictPlanned>(event);
    EXPECT_EQ(planned.outcome.code, planned.job == 7 ? core::Code::kInvalidArgument : core::Code::kOk);
    EXPECT_EQ(planned.outcome.message, planned.job == 7 ? "keys has NaN" : "");
  }
}

TEST_F(DeviceTest, AJobWithoutMemoryIsRefusedAndOthersGoOn) {
  engine_->on_score = [](int64_t seen, int32_t layer) {
    if (seen == 99 && layer == 1) throw std::bad_alloc();
    return absl::OkStatus();
  };
  Start();
  core::RunEvict large = Ask(7, "a", 1);
  large.written_tokens = 99;
  device_.RunEvict(large, rig_.pool());
  device_.RunEvict(Ask(8, "b", 2), rig_.pool());
  for (const core::Event& event : inbox_.Wait(2)) {
    const auto& planned = std::get<core::EvictPlanned>(event);
    EXPECT_EQ(planned.outcome.code, planned.job == 7 ? core::Code::kResourceExhausted : core::Code::kOk);
    EXPECT_EQ(planned.outcome.message.find("more memory") != std::string::npos, planned.job == 7);
    EXPECT_EQ(planned.kept.empty(), planned.job == 7);
  }

  engine_->on_compact = [] { throw std::bad_alloc(); };
  device_.CompactUnits(LeaseRig::Wave(8, 0, 4, 2));
  const auto compacted = inbox_.WaitFor<core::UnitsCompacted>();
  EXPECT_EQ(compacted.units, 0u);
  EXPECT_EQ(compacted.outcome.code, core::Code::kResourceExhausted);
  EXPECT_EQ(rig_.Word(0), 0u);
  device_.EndJob(8);
  inbox_.WaitFor<core::JobEnded>();
}

TEST_F(DeviceTest, StopsWithWorkLeft) {
  Gate entered;
  engine_->on_score = [&](int64_t, int32_t) {
    entered.Open();
    gate_.Wait();
    return absl::OkStatus();
  };
  Start();
  for (core::JobId job = 1; job < 5; ++job) device_.RunEvict(Ask(job, "a", 1), rig_.pool());
  entered.Wait();
  gate_.Open();
  device_.Stop();
  device_.Stop();
}

}  // namespace
}  // namespace kvsteward::device
