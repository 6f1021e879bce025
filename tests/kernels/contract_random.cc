// Random sequences through up to four evictions in a row, each checked against the reference: every preset, and
// compositions from the whole space of policies.
#include <cstdlib>
#include <cstring>
#include <functional>
#include <optional>
#include <string>

#include "tests/kernels/engine_contract.h"
#include "tests/kernels/plan_check.h"

namespace kvsteward::engine {
namespace {

constexpr uint32_t kPresetCases = 1000;
// Only one case in so many is run where everything takes ten times as long.
constexpr uint32_t kStride = KVSTEWARD_CONTRACT_STRIDE;

// The one case to run instead of all: KVSTEWARD_CASE.
std::optional<uint32_t> OnlyCase() {
  const char* text = std::getenv("KVSTEWARD_CASE");
  if (text == nullptr) return std::nullopt;
  return static_cast<uint32_t>(std::strtoul(text, nullptr, 10));
}

std::string HowToReplay(uint32_t seed, const Policy& policy) {
  const ::testing::TestInfo* test = ::testing::UnitTest::GetInstance()->current_test_info();
  return "replay with KVSTEWARD_CASE=" + std::to_string(seed) + " and --gtest_filter=" + test->test_suite_name() + "." +
         test->name() + "\n" + PolicyToYaml(policy);
}

// The least k that lets sinks, recent tokens and flagged ones stay, if any that evicts something does.
int64_t LeastBudget(const PlainSequence& plain, const Policy& policy) {
  const auto units = static_cast<int64_t>(plain.contents.units.size());
  const int64_t most = Residents(plain) / units + 1;
  for (int64_t k = 1; k < most; ++k) {
    if (ProtectedTokens(plain, policy, k) <= units * k) return k;
  }
  return most;
}

// Next to what is protected, next to everything, or anywhere between; now and then too little.
Budget RandomBudget(Random& random, const PlainSequence& plain, const Policy& policy) {
  const auto least = static_cast<int32_t>(LeastBudget(plain, policy));
  const auto most = static_cast<int32_t>(Residents(plain) / static_cast<int64_t>(plain.contents.units.size()));
  const int32_t between = Between(random, std::min(least, most), std::max(least, most));
  const int32_t choices[] = {
      least, least + 1, between, between, between, between, std::max(1, most - 1), std::max(1, least - 1)};
  const int64_t k = std::max(1, choices[random() % 8]);
  if (random() % 8 != 0) return Tokens(k);
  return {Budget::Kind::kPpmOfSeen, std::min(kPpm, k * kPpm / plain.seen + 1)};  // k, or k + 1
}

// One sequence under one policy. Plans on two engines of the same kind, of different numbers of threads.
class Chain {
 public:
  Chain(const EngineUnderTest& under_test, Engine& engine, Engine& other, uint32_t seed, const Policy& policy,
        Random& random, const Shape& shape)
      : engine_(engine),
        other_(other),
        policy_(policy),
        random_(random),
        shape_(shape),
        sequence_(Plain(policy, random, shape), seed % 2 == 0 ? Placement::kContiguous : Placement::kScattered, seed,
                  under_test.memory) {}

  // The number of evictions that had something to evict.
  int evictions() const { return evictions_; }

  void Run() {
    for (int left = Between(random_, 1, 4); left > 0; --left) {
      SCOPED_TRACE(std::to_string(left) + " evictions left");
      if (policy_.running() && random_() % 2 == 0) {
        ASSERT_NO_FATAL_FAILURE(ObserveRows());
      }
      bool refused = false;
      ASSERT_NO_FATAL_FAILURE(Evict(&refused));
      if (refused) return;
      sequence_.Append(MakeTokens(random_, shape_, Between(random_, 1, 24)));
      sequence_.SetRequest(NextRequest());
    }
  }

 private:
  static PlainSequence Plain(const Policy& policy, Random& random, const Shape& shape) {
    PlainSequence plain = MakeSequence(random, shape);
    if (policy.running() && random() % 2 == 0) MakeRunning(random, shape, &plain);
    return plain;
  }

  Request NextRequest() {
    shape_.rows = std::min<int32_t>(OneOf<int32_t>(random_, {1, 2, 7, 32, 40}), static_cast<int32_t>(Seen()));
    if (policy_.running() && sequence_.plain().contents.observed > 0 && random_() % 4 == 0) {
      return MakeRequest(random_, shape_, sequence_.plain(), {});
    }
    return MakeRequest(random_, shape_, sequence_.plain());
  }

  int64_t Seen() const { return sequence_.plain().seen; }

  // The next rows that have not been observed, a few or all.
  void ObserveRows() {
    std::vector<int64_t> rows;
    const int64_t first = sequence_.plain().contents.observed;
    const int64_t end = std::min<int64_t>(Seen(), first + Between(random_, 1, 48));
    for (int64_t p = first; p < end; ++p) rows.push_back(p);
    if (rows.empty()) return;
    sequence_.SetRequest(MakeRequest(random_, shape_, sequence_.plain(), rows));
    const Budget budget = RandomBudget(random_, sequence_.plain(), policy_);
    const SequenceView view = sequence_.View();
    const std::vector<float> before = Stored();
    ASSERT_NO_FATAL_FAILURE(Observe(other_, view, budget));
    const std::vector<float> again = Stored();
    Store(before);
    ASSERT_NO_FATAL_FAILURE(Observe(engine_, view, budget));
    const std::vector<float> running = Stored();
    ASSERT_EQ(running, again);
    const int64_t k = *BudgetTokens(budget, view.geometry, view.seen);
    size_t offset = 0;
    for (int32_t layer = 0; layer < view.geometry.layers; ++layer) {
      size_t tokens = 0;
      for (int32_t head = 0; head < view.geometry.kv_heads; ++head) {
        tokens += static_cast<size_t>(view.units[static_cast<size_t>(layer * view.geometry.kv_heads + head)].length);
      }
      ASSERT_NO_FATAL_FAILURE(
          ExpectRunningIsRight(sequence_, policy_, k, layer, std::span(running).subspan(offset, tokens)));
      offset += tokens;
    }
    sequence_.MarkObserved();
    sequence_.SetRequest(NextRequest());
  }

  void Observe(Engine& engine, const SequenceView& view, const Budget& budget) {
    absl::StatusOr<std::unique_ptr<Observation>> observation = engine.StartObservation(view, policy_, budget);
    ASSERT_TRUE(observation.ok()) << observation.status();
    const std::vector<float> before = Stored();
    while (!(*observation)->finished()) ASSERT_TRUE((*observation)->Step().ok());
    ASSERT_TRUE(std::memcmp(before.data(), Stored().data(), before.size() * sizeof(float)) == 0);  // some are NaN
    ASSERT_TRUE((*observation)->Commit().ok());
  }

  // The pool's running scores of all residents, and back.
  std::vector<float> Stored() const {
    std::vector<float> stored;
    ForEachResident([&](float& running) { stored.push_back(running); });
    return stored;
  }
  void Store(const std::vector<float>& running) const {
    auto next = running.begin();
    ForEachResident([&](float& stored) { stored = *next++; });
  }
  void ForEachResident(const std::function<void(float&)>& body) const {
    for (size_t u = 0; u < sequence_.plain().contents.units.size(); ++u) {
      for (int32_t j = 0; j < sequence_.unit(u).length; ++j) body(sequence_.pool().running[sequence_.SlotOf(u, j)]);
    }
  }

  // The pool's running scores are these; from now on they are the sequence's.
  void ExpectStored(const std::vector<float>& running) {
    sequence_.MarkObserved();
    auto next = running.begin();
    for (const reference::Unit& unit : sequence_.plain().contents.units) {
      for (const double stored : unit.running) ASSERT_EQ(stored, *next++);
    }
    ASSERT_TRUE(next == running.end());
  }

  void Evict(bool* refused) {
    const Budget budget = RandomBudget(random_, sequence_.plain(), policy_);
    const int64_t k = *BudgetTokens(budget, sequence_.View().geometry, Seen());
    const absl::StatusOr<Plan> again = PlanEviction(other_, sequence_, policy_, budget);
    const std::string before = sequence_.Snapshot();
    const absl::StatusOr<Plan> plan = PlanEviction(engine_, sequence_, policy_, budget, /*commit=*/true);
    ASSERT_EQ(plan.status(), again.status());
    *refused = !plan.ok();
    if (*refused) {
      ASSERT_NO_FATAL_FAILURE(ExpectRefusalIsRight(sequence_, policy_, k, plan.status()));
      ASSERT_TRUE(sequence_.Snapshot() == before);
      return;
    }
    ASSERT_NO_FATAL_FAILURE(ExpectSamePlan(*plan, *again));
    ASSERT_EQ(plan->budget_tokens, k);
    ASSERT_NO_FATAL_FAILURE(ExpectPlanIsRight(sequence_, policy_, *plan));
    if (plan->no_op || !policy_.running()) {
      ASSERT_TRUE(sequence_.Snapshot() == before);
    }
    if (plan->no_op) return;
    ++evictions_;
    if (policy_.running()) {
      std::vector<float> all;
      for (const LayerScores& layer : plan->scores) all.insert(all.end(), layer.running.begin(), layer.running.end());
      ASSERT_NO_FATAL_FAILURE(ExpectStored(all));
    }
    if (policy_.reads_norms() && random_() % 4 != 0) sequence_.MarkNormed(policy_.norm());
    ASSERT_NO_FATAL_FAILURE(sequence_.Compact(engine_, *plan));
    ASSERT_NO_FATAL_FAILURE(sequence_.ExpectMemoryEqualsPlain());
  }

  Engine& engine_;
  Engine& other_;
  const Policy& policy_;
  Random& random_;
  Shape shape_;
  PagedSequence sequence_;
  int evictions_ = 0;
};

// Makes the shape one that the policy can work on.
Shape ShapeFor(const Policy& policy, Shape shape) {
  shape.equal = policy.group.span == Group::Span::kLayer;
  shape.moments = policy.reads_moments();
  return shape;
}

// Mostly enough to choose from beyond what the policy protects.
Shape DrawShape(Random& random, int32_t recent) {
  return RandomShape(random, OneOf<int32_t>(random, {3, 20, 60, 60 + recent, 90 + recent, 110 + recent}));
}

}  // namespace

TEST_P(PresetContract, RandomCases) {
  const EngineUnderTest& under_test = std::get<0>(GetParam());
  const Policy policy = PresetNamed(std::get<1>(GetParam()));
  const std::unique_ptr<Engine> engine = under_test.make(3);
  const std::unique_ptr<Engine> other = under_test.make(1);
  const std::optional<uint32_t> only = OnlyCase();
  const uint32_t stride = kStride * under_test.stride;
  int evictions = 0;
  for (uint32_t seed = only.value_or(0); seed < (only ? *only + 1 : kPresetCases); seed += stride) {
    SCOPED_TRACE(HowToReplay(seed, policy));
    Random random(seed);
    const Shape shape = ShapeFor(policy, DrawShape(random, policy.protect.recent));
    Chain chain(under_test, *engine, *other, seed, policy, random, shape);
    ASSERT_NO_FATAL_FAILURE(chain.Run());
    evictions += chain.evictions();
  }
  EXPECT_TRUE(only || evictions >= static_cast<int>(kPresetCases / stride)) << evictions;
}

TEST_P(CompositionContract, RandomCases) {
  const EngineUnderTest& under_test = std::get<0>(GetParam());
  const std::unique_ptr<Engine> engine = under_test.make(3);
  const std::unique_ptr<Engine> other = under_test.make(1);
  const std::optional<uint32_t> only = OnlyCase();
  const auto first = static_cast<uint32_t>(std::get<1>(GetParam()));
  int cases = 0;
  int evictions = 0;
  for (uint32_t seed = only.value_or(first); seed < (only ? *only + 1 : kCompositions);
       seed += kCompositionShards * kStride * under_test.stride) {
    Random random(100'000 + seed);
    const Shape shape = DrawShape(random, 0);
    const Policy policy = RandomPolicy(random, shape.layers, shape.kv_heads);
    SCOPED_TRACE(HowToReplay(seed, policy));
    Chain chain(under_test, *engine, *other, seed, policy, random, ShapeFor(policy, shape));
    ASSERT_NO_FATAL_FAILURE(chain.Run());
    ++cases;
    evictions += chain.evictions();
  }
  EXPECT_TRUE(only || 2 * evictions >= cases) << evictions << " evictions in " << cases << " cases";
}

}  // namespace kvsteward::engine
