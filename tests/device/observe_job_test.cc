// Jobs with running scores on the host engine: rows that are observed, and evictions that go on from them.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>

#include "service/device/evict_job.h"
#include "tests/device/lease_rig.h"

namespace kvsteward::device {
namespace {

constexpr int32_t kTokens = 100;
constexpr int32_t kDim = LeaseRig::kGeometry.head_dim;

// Every element of a query.
float QueryOf(uint32_t layer, uint32_t head, int32_t position) {
  return 1e-4f * static_cast<float>((static_cast<uint32_t>(position) * 7 + head * 3 + layer) % 11);
}

std::vector<int32_t> Range(int32_t from, int32_t to) {
  std::vector<int32_t> positions(static_cast<size_t>(to - from));
  std::iota(positions.begin(), positions.end(), from);
  return positions;
}

// As policies.md says: the rows' softmax over the residents that they see, the mean over the group, summed.
void Accumulate(uint32_t unit, const std::vector<int32_t>& residents, int32_t from, int32_t to,
                std::vector<double>& scores) {
  scores.resize(residents.size(), 0);
  for (int32_t row = from; row < to; ++row) {
    for (uint32_t g = 0; g < 2; ++g) {
      const double query = QueryOf(unit / 2, unit % 2 * 2 + g, row);
      std::vector<double> weights;
      for (const int32_t position : residents) {
        const double logit = kDim * query * LeaseRig::KeyOf(unit, position) / std::sqrt(double{kDim});
        weights.push_back(position <= row ? std::exp(logit) : 0);
      }
      const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
      for (size_t j = 0; j < weights.size(); ++j) scores[j] += weights[j] / sum / 2;
    }
  }
}

class ObserveJobTest : public testing::Test {
 protected:
  static core::PolicyRef Running() {
    return LeaseRig::Changed("h2o", [](engine::Policy& p) { p.protect = {.sinks = 2, .recent = 4}; });
  }
  // The queries of rows [from, to), inline.
  static std::shared_ptr<core::EvictSpec> Rows(int32_t from, int32_t to, int64_t budget = 0) {
    auto spec = std::make_shared<core::EvictSpec>();
    spec->budget.amount = budget;
    spec->window_rows = to - from;
    spec->window_positions = Range(from, to);
    spec->window_inline = true;
    std::vector<float> queries;
    for (uint32_t layer = 0; layer < 2; ++layer) {
      for (uint32_t head = 0; head < 4; ++head) {
        for (int32_t row = from; row < to; ++row) queries.insert(queries.end(), kDim, QueryOf(layer, head, row));
      }
    }
    spec->inline_queries.resize(queries.size() * sizeof(float));
    std::memcpy(spec->inline_queries.data(), queries.data(), spec->inline_queries.size());
    return spec;
  }
  // What core asks for its sequence as it is now.
  core::RunEvict Ask(std::shared_ptr<core::EvictSpec> spec) const {
    core::RunEvict ask = rig_.Ask(5);
    ask.policy = Running();
    ask.spec = std::move(spec);
    ask.units = units_;
    ask.written_tokens = written_;
    ask.observed_tokens = observed_;
    ask.accumulated = observed_ > 0 ? Running() : nullptr;
    ask.norms = norms_;
    return ask;
  }
  core::RunEvict AskObserve(int32_t from, int32_t to) const {
    core::RunEvict ask = Ask(Rows(from, to));
    ask.observe = true;
    return ask;
  }
  core::EvictPlanned Plan(EvictJob& job) {
    while (true) {
      if (std::optional<core::EvictPlanned> planned = job.PlanLayer(*engine_)) return *planned;
    }
  }
  // Runs the job, and what core makes of its answer.
  core::EvictPlanned Run(const core::RunEvict& ask, uint32_t stop_after_units = LeaseRig::kUnits) {
    EvictJob job(ask, rig_.pool());
    const core::EvictPlanned planned = Plan(job);
    EXPECT_TRUE(planned.outcome.ok()) << planned.outcome.message;
    if (planned.norms) norms_ = *planned.norms;
    if (planned.observed_tokens > 0) {
      observed_ = planned.observed_tokens;
      for (core::Unit& unit : units_) unit.scored = unit.kept + written_ - unit.base;
    }
    if (ask.observe || ask.plan_only || planned.no_op) return planned;
    next_row_ = next_row_ == 128 ? 0 : 128;
    core::CompactUnits wave{.job = ask.job, .units = {}};
    for (uint32_t u = 0; u < stop_after_units; ++u) {
      const uint32_t blocks = BlocksFor(static_cast<uint64_t>(planned.kept[u]));
      wave.units.push_back({.unit = u, .row = {{next_row_ + u * LeaseRig::kCapacity, blocks}}});
    }
    while (!job.CompactLayer(*engine_, wave)) continue;
    for (uint32_t u = 0; u < stop_after_units; ++u) {
      units_[u] = {.row = wave.units[u].row,
                   .kept = planned.kept[u],
                   .base = written_,
                   .normed = planned.norms ? planned.kept[u] : 0,
                   .scored = planned.scored[u]};
    }
    return planned;
  }
  size_t Slot(uint32_t unit, int32_t j) const {
    int32_t block = j / 16;
    for (const kvsteward::Run& run : units_[unit].row) {
      if (block < static_cast<int32_t>(run.count)) return (run.first + static_cast<uint32_t>(block)) * 16 + j % 16;
      block -= static_cast<int32_t>(run.count);
    }
    ADD_FAILURE() << "resident " << j << " of unit " << unit << " has no block";
    return 0;
  }
  // The positions of a unit's residents. REQUIRES: written_ is 100.
  std::vector<int32_t> Residents(uint32_t unit) const {
    std::vector<int32_t> positions;
    for (int32_t j = 0; j < units_[unit].kept; ++j) {
      positions.push_back(rig_.pool()->View().positions[Slot(unit, j)]);
    }
    for (int32_t p = units_[unit].base; p < written_; ++p) positions.push_back(p);
    return positions;
  }
  // That the running scores of the first residents are the references', by position.
  void ExpectScores(uint32_t unit, const std::vector<double>& by_position) const {
    const std::vector<int32_t> residents = Residents(unit);
    for (int32_t j = 0; j < units_[unit].scored; ++j) {
      const double expected = by_position[static_cast<size_t>(residents[static_cast<size_t>(j)])];
      EXPECT_NEAR(rig_.pool()->View().running[Slot(unit, j)], expected, 1e-4 * (1 + expected))
          << "unit " << unit << ", resident " << j;
    }
  }

  std::unique_ptr<engine::Engine> engine_ = engine::NewHostEngine(1);
  LeaseRig rig_{kTokens};
  std::vector<core::Unit> units_ = rig_.Ask(1).units;
  int32_t written_ = kTokens;
  int32_t observed_ = 0;
  uint8_t norms_ = 0;
  uint32_t next_row_ = 0;
};

TEST_F(ObserveJobTest, RowsAreAccumulatedChunkByChunkAndStoredAtTheEnd) {
  EvictJob first(AskObserve(0, 60), rig_.pool());
  EXPECT_FALSE(first.PlanLayer(*engine_).has_value());
  for (uint32_t u = 0; u < LeaseRig::kUnits; ++u) EXPECT_EQ(rig_.pool()->View().running[Slot(u, 3)], 0.0f);
  const std::optional<core::EvictPlanned> stored = first.PlanLayer(*engine_);
  ASSERT_TRUE(stored.has_value());
  EXPECT_TRUE(stored->outcome.ok()) << stored->outcome.message;
  EXPECT_EQ(stored->observed_tokens, 60);
  EXPECT_TRUE(stored->kept.empty());
  observed_ = 60;
  for (core::Unit& unit : units_) unit.scored = kTokens;
  std::vector<std::vector<double>> expected(LeaseRig::kUnits);
  for (uint32_t u = 0; u < LeaseRig::kUnits; ++u) {
    Accumulate(u, Range(0, kTokens), 0, 60, expected[u]);
    ExpectScores(u, expected[u]);
  }
  EXPECT_EQ(Run(AskObserve(60, kTokens)).observed_tokens, kTokens);
  for (uint32_t u = 0; u < LeaseRig::kUnits; ++u) {
    Accumulate(u, Range(0, kTokens), 60, kTokens, expected[u]);
    ExpectScores(u, expected[u]);
  }
}

TEST_F(ObserveJobTest, ScoresGoWithTheirTokensThroughEvictionsAndACancel) {
  Run(AskObserve(0, 90));
  std::vector<std::vector<double>> expected(LeaseRig::kUnits);
  for (uint32_t u = 0; u < LeaseRig::kUnits; ++u) Accumulate(u, Range(0, kTokens), 0, 90, expected[u]);

  // The last ten rows come with the eviction.
  const core::EvictPlanned planned = Run(Ask(Rows(90, kTokens, 60)));
  EXPECT_EQ(planned.observed_tokens, kTokens);
  EXPECT_EQ(planned.scored, planned.kept);
  EXPECT_EQ(planned.kept, (std::vector<int32_t>{60, 60, 60, 60}));
  for (uint32_t u = 0; u < LeaseRig::kUnits; ++u) {
    Accumulate(u, Range(0, kTokens), 90, kTokens, expected[u]);
    ExpectScores(u, expected[u]);
    // Those that stay are the best of the candidates.
    std::vector<double> candidates(expected[u].begin() + 2, expected[u].end() - 4);
    std::sort(candidates.rbegin(), candidates.rend());
    for (const int32_t p : Residents(u)) {
      EXPECT_TRUE(p < 2 || p >= 96 || expected[u][static_cast<size_t>(p)] >= candidates[53] - 1e-4) << p;
    }
  }

  // Without new rows; stopped after three units, whose tokens moved. Then once more, to the end.
  auto none = std::make_shared<core::EvictSpec>();
  none->budget.amount = 40;
  Run(Ask(none), 3);
  EXPECT_EQ(units_[2].kept, 40);
  EXPECT_EQ(units_[3].kept, 60);
  for (uint32_t u = 0; u < LeaseRig::kUnits; ++u) ExpectScores(u, expected[u]);
  none = std::make_shared<core::EvictSpec>(*none);
  none->budget.amount = 20;
  Run(Ask(none));
  for (uint32_t u = 0; u < LeaseRig::kUnits; ++u) {
    EXPECT_EQ(units_[u].kept, 20);
    EXPECT_EQ(units_[u].scored, 20);
    ExpectScores(u, expected[u]);
  }
}

TEST_F(ObserveJobTest, APolicyWithoutRunningScoresTakesThemAlong) {
  written_ = 60;
  Run(AskObserve(0, 60));
  std::vector<std::vector<double>> expected(LeaseRig::kUnits);
  for (uint32_t u = 0; u < LeaseRig::kUnits; ++u) Accumulate(u, Range(0, 60), 0, 60, expected[u]);
  written_ = kTokens;
  core::RunEvict ask = Ask(std::make_shared<core::EvictSpec>());
  ask.policy = rig_.Ask(1).policy;  // sinks 4, and the newest
  auto spec = std::make_shared<core::EvictSpec>();
  spec->budget.amount = 48;
  ask.spec = spec;
  const core::EvictPlanned planned = Run(ask);
  EXPECT_EQ(planned.observed_tokens, -1);
  EXPECT_EQ(planned.scored, (std::vector<int32_t>{8, 8, 8, 8}));  // 0 to 3 and 56 to 59
  for (uint32_t u = 0; u < LeaseRig::kUnits; ++u) {
    EXPECT_EQ(Residents(u)[7], 59);
    ExpectScores(u, expected[u]);
  }
}

TEST_F(ObserveJobTest, APlanOnlyStoresNothing) {
  core::RunEvict ask = Ask(Rows(0, kTokens, 40));
  ask.plan_only = true;
  const core::EvictPlanned planned = Run(ask);
  EXPECT_EQ(planned.observed_tokens, -1);
  EXPECT_EQ(planned.kept, (std::vector<int32_t>{40, 40, 40, 40}));
  EXPECT_EQ(rig_.pool()->View().running[Slot(0, 3)], 0.0f);
  ask = Ask(Rows(0, kTokens, kTokens));  // within its budget: nothing is read
  EXPECT_EQ(Run(ask).observed_tokens, -1);
  EXPECT_EQ(rig_.pool()->View().running[Slot(0, 3)], 0.0f);
}

TEST_F(ObserveJobTest, RefusalsChangeNothing) {
  Run(AskObserve(0, 50));
  const float before = rig_.pool()->View().running[Slot(1, 3)];
  struct Case {
    core::Code code;
    std::string says;
    std::function<void(core::RunEvict&)> change;
  };
  const auto other = [](auto change) {
    return [change](core::RunEvict& ask) {
      auto policy = std::make_shared<engine::Policy>(*ask.policy);
      change(*policy);
      ask.policy = policy;
    };
  };
  for (const Case& c : std::vector<Case>{
           {core::Code::kAborted, "50", [](core::RunEvict& ask) { ask.spec = Rows(51, 60); }},
           {core::Code::kAborted, "50", [](core::RunEvict& ask) { ask.spec = Rows(49, 60); }},
           {core::Code::kAborted, "52",
            [](core::RunEvict& ask) {
              auto spec = Rows(50, 60);
              for (size_t i = 2; i < 10; ++i) ++spec->window_positions[i];
              ask.spec = spec;
            }},
           {core::Code::kInvalidArgument, "window",
            [](core::RunEvict& ask) { ask.spec = std::make_shared<core::EvictSpec>(); }},
           {core::Code::kInvalidArgument, "window.positions",
            [](core::RunEvict& ask) {
              auto spec = Rows(50, 60);
              spec->window_positions.back() = kTokens;
              ask.spec = spec;
            }},
           {core::Code::kInvalidArgument, "layer 1, query head 3, row 9",
            [](core::RunEvict& ask) {
              auto spec = Rows(50, 60);
              const float nan = std::nanf("");
              std::memcpy(spec->inline_queries.data() + spec->inline_queries.size() - 4, &nan, 4);  // in the last layer
              ask.spec = spec;
            }},
           {core::Code::kInvalidArgument, "snapkv",
            [](core::RunEvict& ask) { ask.policy = LeaseRig::Changed("snapkv", [](engine::Policy&) {}); }},
           {core::Code::kInvalidArgument, "signal, accumulate and group",
            other([](engine::Policy& p) { p.accumulate.decay_ppm = 900'000; })},
           {core::Code::kInvalidArgument, "signal, accumulate and group",
            other([](engine::Policy& p) { p.group.kind = engine::Group::Kind::kSum; })},
           {core::Code::kInvalidArgument, "signal, accumulate and group",
            other([](engine::Policy& p) { p.signal.kind = engine::Signal::Kind::kSoftmax1; })}}) {
    core::RunEvict ask = AskObserve(50, 60);
    c.change(ask);
    EvictJob job(ask, rig_.pool());
    const core::EvictPlanned refused = Plan(job);
    EXPECT_EQ(refused.outcome.code, c.code) << refused.outcome.message;
    EXPECT_NE(refused.outcome.message.find(c.says), std::string::npos) << refused.outcome.message;
    EXPECT_EQ(refused.observed_tokens, -1);
    EXPECT_EQ(rig_.pool()->View().running[Slot(1, 3)], before);
  }
  // Later stages may differ; so may all of a policy that has no running scores.
  core::RunEvict ask = AskObserve(50, 60);
  other([](engine::Policy& p) { p.protect.sinks = 9; })(ask);
  EXPECT_EQ(Run(ask).observed_tokens, 60);
}

TEST_F(ObserveJobTest, NormsOfAnotherKindThatAFailureLeavesAreNotToBeUsed) {
  struct Reads {
    core::PolicyRef squared = LeaseRig::Changed("ahakv-ada", [](engine::Policy& p) { p.protect = {}; });
    core::PolicyRef absolute = LeaseRig::Changed("ahakv-ada", [](engine::Policy& p) {
      p.protect = {};
      p.refine[0].norm = engine::Norm::kL1;
    });
  } policies;
  core::RunEvict ask = Ask(Rows(90, kTokens, 40));
  ask.policy = policies.squared;
  ask.plan_only = true;
  const core::EvictPlanned first = Run(ask);
  ASSERT_TRUE(first.norms.has_value());
  for (core::Unit& unit : units_) unit.normed = kTokens;
  EXPECT_EQ(rig_.pool()->View().norms[Slot(0, 17)], 8 * 17.0f * 17.0f);

  const auto fail_in_second_layer = [&](const core::PolicyRef& policy) {
    core::RunEvict bad = Ask(Rows(90, kTokens, 40));
    bad.policy = policy;
    EvictJob job(bad, rig_.pool());
    EXPECT_FALSE(job.PlanLayer(*engine_).has_value());
    job.Cancel();
    const core::EvictPlanned failed = *job.PlanLayer(*engine_);
    EXPECT_EQ(failed.outcome.code, core::Code::kCancelled);
    return failed.norms;
  };
  EXPECT_EQ(fail_in_second_layer(policies.squared), std::nullopt);
  EXPECT_EQ(fail_in_second_layer(policies.absolute), 0);
  norms_ = 0;
  for (core::Unit& unit : units_) unit.normed = 0;

  ask = Ask(Rows(90, kTokens, 40));
  ask.policy = policies.absolute;
  const core::EvictPlanned second = Run(ask);
  EXPECT_NE(second.norms, first.norms);
  const std::vector<int32_t> residents = Residents(0);
  for (int32_t j = 0; j < units_[0].normed; ++j) {
    EXPECT_EQ(rig_.pool()->View().norms[Slot(0, j)], 8.0f * static_cast<float>(residents[static_cast<size_t>(j)]));
  }
}

TEST_F(ObserveJobTest, InputsAreReadAndClassesAsTheyWereWhenTheJobBegan) {
  std::fill(rig_.Inputs().begin(), rig_.Inputs().end(), std::byte{0});
  rig_.Inputs()[50] = std::byte{3};
  auto spec = std::make_shared<core::EvictSpec>();
  spec->budget.amount = 10;
  spec->classes = {.given = true, .is_inline = false, .bytes = {}, .offset = 0};
  spec->scores = {.given = true, .is_inline = true, .bytes = {}, .offset = 0};
  std::vector<float> scores(LeaseRig::kUnits * kTokens, 0.0f);
  for (uint32_t u = 0; u < LeaseRig::kUnits; ++u) {
    for (int32_t j = 0; j < kTokens; ++j) scores[u * kTokens + static_cast<uint32_t>(j)] = j % 11 == 0 ? 2.0f : 1.0f;
  }
  spec->scores.bytes.resize(scores.size() * 4);
  std::memcpy(spec->scores.bytes.data(), scores.data(), spec->scores.bytes.size());
  core::RunEvict ask = Ask(spec);
  ask.policy = LeaseRig::Changed("streaming-llm", [](engine::Policy& p) {
    p.signal.kind = engine::Signal::Kind::kSubmitted;
    p.protect = {.sinks = 0, .recent = 0, .classes = {3}};
  });
  EvictJob job(ask, rig_.pool());
  EXPECT_FALSE(job.PlanLayer(*engine_).has_value());
  std::fill(rig_.Inputs().begin(), rig_.Inputs().end(), std::byte{3});  // would protect all
  const core::EvictPlanned planned = *job.PlanLayer(*engine_);
  ASSERT_TRUE(planned.outcome.ok()) << planned.outcome.message;
  core::CompactUnits wave = LeaseRig::Wave(5, 0, LeaseRig::kUnits, 1);
  while (!job.CompactLayer(*engine_, wave)) continue;
  for (uint32_t u = 0; u < LeaseRig::kUnits; ++u) {
    units_[u] = {.row = wave.units[u].row, .kept = planned.kept[u], .base = kTokens};
    EXPECT_EQ(Residents(u), (std::vector<int32_t>{0, 11, 22, 33, 44, 50, 55, 66, 77, 88}));
  }

  spec = std::make_shared<core::EvictSpec>(*spec);
  spec->classes.offset = 1 << 20;
  ask.spec = spec;
  EvictJob refused(ask, rig_.pool());
  EXPECT_NE(Plan(refused).outcome.message.find("inputs.classes.offset is 1048576"), std::string::npos);
}

}  // namespace
}  // namespace kvsteward::device
