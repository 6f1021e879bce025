#include "tests/kernels/engine_contract.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>

#include "kernels/policy/row.h"
#include "tests/kernels/random_cases.h"

namespace kvsteward::engine {

using ::testing::HasSubstr;

absl::StatusOr<Plan> PlanEviction(Engine& engine, PagedSequence& sequence, const Policy& policy, const Budget& budget) {
  absl::StatusOr<EvictionPlanner> planner =
      EvictionPlanner::Start(engine, sequence.View(), policy, budget, /*keep_scores=*/true);
  if (!planner.ok()) return planner.status();
  while (!planner->finished()) {
    if (absl::Status status = planner->Step(); !status.ok()) return status;
  }
  return planner->TakePlan();
}

namespace {

bool Keeps(const Plan& plan, size_t u, size_t j) {
  return (plan.UnitMask(static_cast<int32_t>(u))[j / 64] >> (j % 64) & 1) != 0;
}

// The bits of every unit's mask against expected ones, and `kept` and `layer_budgets` against the bits.
void ExpectMasks(const Plan& plan, const std::vector<std::vector<bool>>& expected, int32_t kv_heads) {
  ASSERT_EQ(plan.kept.size(), expected.size());
  std::vector<int64_t> layer_budgets(expected.size() / kv_heads, 0);
  for (size_t u = 0; u < expected.size(); ++u) {
    ASSERT_EQ(plan.UnitMask(static_cast<int32_t>(u)).size(), (expected[u].size() + 63) / 64);
    int64_t bits = 0;
    for (const uint64_t word : plan.UnitMask(static_cast<int32_t>(u))) bits += std::popcount(word);
    for (size_t j = 0; j < expected[u].size(); ++j) {
      ASSERT_EQ(Keeps(plan, u, j), expected[u][j]) << "unit " << u << " token " << j;
    }
    ASSERT_EQ(bits, std::count(expected[u].begin(), expected[u].end(), true));  // none beyond the length
    ASSERT_EQ(plan.kept[u], bits);
    layer_budgets[u / kv_heads] += bits;
  }
  ASSERT_EQ(plan.layer_budgets, layer_budgets);
}

// (a): the emitted scores of one unit.
void ExpectScores(std::span<const float> emitted, const reference::UnitScores& exact) {
  ASSERT_EQ(emitted.size(), exact.scores.size());
  ASSERT_LE(exact.greatest, double{FLT_MAX});
  for (size_t j = 0; j < emitted.size(); ++j) {
    if (exact.scores[j] == reference::kProtected) {
      ASSERT_EQ(emitted[j], kProtected) << "token " << j;
      continue;
    }
    ASSERT_GE(emitted[j], 0.0f) << "token " << j;
    ASSERT_NEAR(emitted[j], exact.scores[j], exact.Epsilon(j)) << "token " << j;
  }
}

void ExpectNorms(PagedSequence& sequence) {
  const reference::Sequence& plain = sequence.plain().contents;
  for (size_t u = 0; u < plain.units.size(); ++u) {
    for (int32_t j = 0; j < sequence.unit(u).length; ++j) {
      double norm = 0;
      for (int x = 0; x < plain.head_dim; ++x) norm += std::pow(plain.units[u].values[j * plain.head_dim + x], 2);
      const size_t block = BlockOf(sequence.unit(u).row, static_cast<uint32_t>(j / kBlockTokens));
      ASSERT_NEAR(sequence.pool().norms[block * kBlockTokens + j % kBlockTokens], norm, 1e-5 * norm)
          << "unit " << u << " token " << j;
    }
  }
}

// Smallest budget in tokens that lets the protected ones stay; and how many tokens there are per unit at most.
int64_t ProtectedPerUnit(const PlainSequence& plain, const Policy& policy) {
  int64_t most = 0;
  for (const reference::Unit& unit : plain.contents.units) {
    const auto n = static_cast<int64_t>(unit.positions.size());
    const int64_t sinks = std::count_if(unit.positions.begin(), unit.positions.end(),
                                        [&](int64_t p) { return p < policy.protect.sinks; });
    const int64_t recent = policy.protect.recent_kind == Protect::Recent::kTokens ? policy.protect.recent : 0;
    most = std::max(most, std::min(n, sinks + recent));
  }
  return most;
}

int64_t LongestUnit(const PlainSequence& plain) {
  size_t longest = 0;
  for (const reference::Unit& unit : plain.contents.units) longest = std::max(longest, unit.positions.size());
  return static_cast<int64_t>(longest);
}

// Next to what is protected, next to everything, or anywhere.
Budget RandomBudget(Random& random, const PlainSequence& plain, const Policy& policy) {
  const int64_t least = std::max<int64_t>(1, ProtectedPerUnit(plain, policy));
  const int64_t most = std::max<int64_t>(least, LongestUnit(plain));
  const int64_t choices[] = {least, least + 1, std::max(least, most - 1), most,
                             Between(random, static_cast<int32_t>(least), static_cast<int32_t>(most))};
  return {Budget::Kind::kTokens, choices[random() % 5]};
}

Policy PresetNamed(const char* name) { return *Preset(name); }

Budget Tokens(int64_t tokens) { return {Budget::Kind::kTokens, tokens}; }

Shape Uniform(int32_t layers, int32_t kv_heads, int32_t length) {
  Shape shape;
  shape.layers = layers;
  shape.kv_heads = kv_heads;
  shape.lengths.assign(static_cast<size_t>(layers) * kv_heads, length);
  return shape;
}

}  // namespace

void ExpectPlanIsRight(PagedSequence& sequence, const Policy& policy, const Plan& plan) {
  const PlainSequence& plain = sequence.plain();
  const reference::Sequence& contents = plain.contents;
  const reference::Policy mirror = MirrorOf(policy);
  const int64_t budget = plan.budget_tokens * contents.layers * contents.kv_heads;
  int64_t residents = 0;
  for (const reference::Unit& unit : contents.units) residents += static_cast<int64_t>(unit.positions.size());

  ASSERT_EQ(plan.no_op, residents <= budget);
  ASSERT_EQ(std::accumulate(plan.kept.begin(), plan.kept.end(), int64_t{0}), std::min(residents, budget));
  if (plan.no_op) {
    std::vector<std::vector<bool>> all;
    for (const reference::Unit& unit : contents.units) all.emplace_back(unit.positions.size(), true);
    EXPECT_TRUE(plan.scores.empty());
    return ExpectMasks(plan, all, contents.kv_heads);
  }

  std::vector<std::vector<double>> emitted;
  ASSERT_EQ(plan.scores.size(), static_cast<size_t>(contents.layers));
  for (int32_t layer = 0; layer < contents.layers; ++layer) {
    const LayerScores& scores = plan.scores[static_cast<size_t>(layer)];
    ASSERT_EQ(scores.offsets.size(), static_cast<size_t>(contents.kv_heads) + 1);
    for (int32_t head = 0; head < contents.kv_heads; ++head) {
      SCOPED_TRACE("layer " + std::to_string(layer) + " kv head " + std::to_string(head));
      const std::span<const float> unit(scores.scores.begin() + scores.offsets[head],
                                        scores.scores.begin() + scores.offsets[head + 1]);
      ExpectScores(unit, reference::Score(contents, mirror, plan.budget_tokens, layer, head));
      if (::testing::Test::HasFatalFailure()) return;
      emitted.emplace_back(unit.begin(), unit.end());
    }
  }
  ExpectMasks(plan, reference::Decide(mirror, contents.layers, contents.kv_heads, plan.budget_tokens, emitted),
              contents.kv_heads);
  if (policy.reads_values()) ExpectNorms(sequence);
}

namespace {

// Plans, checks, and returns the plan. Empty if something was wrong.
std::optional<Plan> EvictRight(Engine& engine, PagedSequence& sequence, const Policy& policy, const Budget& budget) {
  const absl::StatusOr<Plan> plan = PlanEviction(engine, sequence, policy, budget);
  EXPECT_TRUE(plan.ok()) << plan.status();
  if (!plan.ok()) return std::nullopt;
  ExpectPlanIsRight(sequence, policy, *plan);
  if (::testing::Test::HasFailure()) return std::nullopt;
  return *plan;
}

// That the only reason to refuse is there: a score that float32 does not hold.
void ExpectOverflow(PagedSequence& sequence, const Policy& policy, const Budget& budget, const absl::Status& status) {
  const reference::Sequence& contents = sequence.plain().contents;
  ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  ASSERT_THAT(std::string(status.message()), HasSubstr("scores: layer "));
  double greatest = 0;
  for (int32_t u = 0; u < contents.layers * contents.kv_heads; ++u) {
    const reference::UnitScores exact =
        reference::Score(contents, MirrorOf(policy), budget.amount, u / contents.kv_heads, u % contents.kv_heads);
    greatest = std::max(greatest, exact.greatest);
  }
  ASSERT_GT(greatest, double{FLT_MAX});
}

}  // namespace

TEST_P(EngineContract, RandomSequences) {
  int refused = 0;
  for (uint32_t seed = 0; seed < 1500; ++seed) {
    Random random(seed);
    Policy policy = RandomPolicy(random);
    Shape shape = RandomShape(random, seed % 20 == 0 ? 400 : 90);
    if (seed % 25 == 3 && policy.reads_queries()) {  // on the edge of what float32 holds
      shape.numbers = Numbers::kHugeValues;
      policy.refine.push_back({.kind = Refinement::Kind::kValuePrior, .scale = Refinement::Scale::kNone});
    }
    PagedSequence sequence =
        Page(MakeSequence(random, shape), seed % 2 == 0 ? Placement::kContiguous : Placement::kScattered, seed);
    SCOPED_TRACE("seed " + std::to_string(seed) + "\n" + PolicyToYaml(policy));
    const Budget budget = RandomBudget(random, sequence.plain(), policy);
    const absl::StatusOr<Plan> plan = PlanEviction(*engine_, sequence, policy, budget);
    if (plan.ok()) {
      ASSERT_NO_FATAL_FAILURE(ExpectPlanIsRight(sequence, policy, *plan));
    } else {
      ASSERT_NO_FATAL_FAILURE(ExpectOverflow(sequence, policy, budget, plan.status()));
      ++refused;
    }
  }
  EXPECT_GT(refused, 0);
}

TEST_P(EngineContract, EveryPresetOnEveryKindOfNumbers) {
  uint32_t seed = 0;
  for (const std::string& name : PresetNames()) {
    for (const Numbers numbers : kAllNumbers) {
      for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
        Random random(++seed);
        Shape shape = Uniform(2, 2, 150);
        shape.dtype = dtype;
        shape.query_dtype = shape.dtype;
        shape.numbers = numbers;
        shape.rows = 32;
        PagedSequence sequence = Page(MakeSequence(random, shape), Placement::kScattered, seed);
        SCOPED_TRACE(name + " numbers " + std::to_string(static_cast<int>(numbers)) + " dtype " +
                     std::to_string(static_cast<int>(dtype)));
        if (!EvictRight(*engine_, sequence, PresetNamed(name.c_str()), Tokens(48))) return;
      }
    }
  }
}

// Several chunks a unit, in bf16 (where there is AMX, with it) and in f32 with gaps.
TEST_P(EngineContract, LongSequences) {
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    Random random(7);
    Shape shape = Uniform(1, 2, 5000);
    shape.group = 4;
    shape.head_dim = dtype == DType::kBF16 ? 128 : 48;
    shape.rows = 32;
    shape.dtype = dtype;
    shape.query_dtype = dtype;
    shape.gaps = dtype == DType::kF32;
    PagedSequence sequence = Page(MakeSequence(random, shape));
    const Policy policy = PresetNamed(dtype == DType::kBF16 ? "ahakv-ada" : "ada-snapkv");
    if (!EvictRight(*engine_, sequence, policy, {Budget::Kind::kPpmOfSeen, 100'000})) return;
  }
}

TEST_P(EngineContract, EveryPresetOnThousandsOfTokens) {
  uint32_t seed = 0;
  for (const std::string& name : PresetNames()) {
    for (int i = 0; i < 3; ++i) {
      Random random(++seed);
      Shape shape = Uniform(1, 2, Between(random, 1000, 3000));
      shape.rows = 32;
      shape.gaps = i == 1;
      shape.dtype = i == 2 ? DType::kBF16 : DType::kF32;
      shape.query_dtype = shape.dtype;
      SCOPED_TRACE(name + " seed " + std::to_string(seed));
      PagedSequence sequence = Page(MakeSequence(random, shape));
      if (!EvictRight(*engine_, sequence, PresetNamed(name.c_str()), Tokens(Between(random, 64, 900)))) return;
    }
  }
}

// The flush to 0 is per query head: eight heads that are each below 2^-100 add up to nothing.
TEST_P(EngineContract, TinyMassesOfEightHeads) {
  for (const Accumulate accumulate : {Accumulate::kSum, Accumulate::kMean, Accumulate::kMax}) {
    for (const Group group : {Group::kSum, Group::kMean, Group::kMax}) {
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        Policy policy;
        policy.name = "tiny";
        policy.accumulate = accumulate;
        policy.group = group;
        policy.protect.sinks = 1;  // the token that takes all, so that it does not widen epsilon
        Shape shape = Uniform(1, 1, 300);
        shape.group = 8;
        shape.dtype = dtype;
        shape.query_dtype = dtype;
        shape.numbers = Numbers::kTinyMasses;
        shape.head_dim = 32;
        Random random(11);
        PagedSequence sequence = Page(MakeSequence(random, shape));
        SCOPED_TRACE(PolicyToYaml(policy));
        const std::optional<Plan> plan = EvictRight(*engine_, sequence, policy, Tokens(100));
        if (!plan) return;
        const std::vector<float>& scores = plan->scores[0].scores;
        EXPECT_GT(std::count(scores.begin(), scores.end(), 0.0f), 0);
        EXPECT_GT(std::count_if(scores.begin(), scores.end(), [](float s) { return s > 0 && s < 0x1p-98f; }), 0);
      }
    }
  }
}

TEST_P(EngineContract, LengthsAroundBlocksAndTiles) {
  Policy policy = PresetNamed("ahakv-ada");
  policy.protect = {};
  for (const int32_t n :
       {1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513, 1023, 1025}) {
    for (const int32_t dim : {1, 17, 64}) {
      Random random(static_cast<uint32_t>(n * 1000 + dim));
      Shape shape = Uniform(1, 1, n);
      shape.head_dim = dim;
      shape.rows = 3;
      shape.dtype = DType::kBF16;
      shape.query_dtype = shape.dtype;
      shape.gaps = dim == 17;
      PagedSequence sequence = Page(MakeSequence(random, shape));
      SCOPED_TRACE("n " + std::to_string(n) + " dim " + std::to_string(dim));
      if (!EvictRight(*engine_, sequence, policy, Tokens(std::max(1, n / 2)))) return;
    }
  }
}

TEST_P(EngineContract, EvictAppendEvictAgain) {
  for (uint32_t seed = 0; seed < 24; ++seed) {
    Random random(seed);
    std::normal_distribution<double> gaussian;
    const std::vector<std::string> presets = PresetNames();
    const Policy policy = PresetNamed(presets[seed % presets.size()].c_str());
    const size_t variation = seed / presets.size() % 4;
    Shape shape = Uniform(2, 3, 140);
    shape.dtype = variation % 2 == 0 ? DType::kBF16 : DType::kF32;
    shape.query_dtype = shape.dtype;
    shape.rows = 8;
    shape.numbers = variation == 3 ? Numbers::kFewDistinct : Numbers::kGaussian;
    PagedSequence sequence = Page(MakeSequence(random, shape), Placement::kScattered, seed);
    for (int round = 0; round < 4; ++round) {
      SCOPED_TRACE("seed " + std::to_string(seed) + " round " + std::to_string(round));
      const std::optional<Plan> plan = EvictRight(*engine_, sequence, policy, Tokens(60));
      if (!plan) return;
      ASSERT_FALSE(plan->no_op);
      if (policy.reads_values()) sequence.MarkNormed();
      sequence.Compact(*engine_, *plan);
      ASSERT_NO_FATAL_FAILURE(sequence.ExpectMemoryEqualsPlain());
      sequence.Append(Between(random, 1, 33), [&] { return gaussian(random); });
    }
  }
}

TEST_P(EngineContract, CompactionGathers) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    Random random(seed);
    Shape shape = RandomShape(random, 200);
    shape.window = Rows::kLast;
    PagedSequence sequence =
        Page(MakeSequence(random, shape), seed % 3 == 0 ? Placement::kContiguous : Placement::kScattered, seed);
    Plan plan;
    plan.mask_offsets.push_back(0);
    for (const int32_t length : shape.lengths) {
      const uint32_t often = random() % 4;  // nothing, some, most, all
      plan.mask_offsets.push_back(plan.mask_offsets.back() + (length + 63) / 64);
      plan.mask.resize(static_cast<size_t>(plan.mask_offsets.back()));
      plan.kept.push_back(0);
      for (int32_t j = 0; j < length; ++j) {
        if (random() % 3 >= often) continue;
        plan.mask[plan.mask_offsets[plan.mask_offsets.size() - 2] + j / 64] |= uint64_t{1} << (j % 64);
        ++plan.kept.back();
      }
    }
    SCOPED_TRACE("seed " + std::to_string(seed));
    sequence.Compact(*engine_, plan);
    ASSERT_NO_FATAL_FAILURE(sequence.ExpectMemoryEqualsPlain());
  }
}

TEST_P(EngineContract, CompactionCarriesCachedNormsOnly) {
  Random random(3);
  PagedSequence sequence = Page(MakeSequence(random, Uniform(1, 1, 60)));
  const Policy policy = PresetNamed("ahakv-ada");
  const std::optional<Plan> first = EvictRight(*engine_, sequence, policy, Tokens(50));
  ASSERT_TRUE(first);
  sequence.MarkNormed();
  sequence.Compact(*engine_, *first);
  ExpectNorms(sequence);
  const std::optional<Plan> unchanged = EvictRight(*engine_, sequence, policy, Tokens(40));
  ASSERT_TRUE(unchanged);
  // What is cached is not read again: a norm that has been changed shows in the scores.
  const UnitView& unit = sequence.unit(0);
  ASSERT_EQ(unit.normed, 50);
  float* norms = sequence.pool().norms;
  const uint32_t block = BlockOf(unit.row, 0);
  norms[block * kBlockTokens + 4] = 1e6f;
  const absl::StatusOr<Plan> second = PlanEviction(*engine_, sequence, policy, Tokens(40));
  ASSERT_TRUE(second.ok()) << second.status();
  ASSERT_GT(unchanged->scores[0].scores[5], 0.0f);
  EXPECT_GT(second->scores[0].scores[4], 2 * unchanged->scores[0].scores[4]);
  EXPECT_LT(second->scores[0].scores[5], unchanged->scores[0].scores[5] / 2);  // the prior is over the mean norm
  EXPECT_EQ(norms[block * kBlockTokens + 4], 1e6f);
}

TEST_P(EngineContract, ThreadsAndPlacementDoNotChangeThePlan) {
  for (uint32_t seed = 0; seed < 30; ++seed) {
    Random random(seed);
    Shape shape = RandomShape(random, seed % 5 == 0 ? 3000 : 300);
    shape.layers = 1;
    shape.lengths.resize(static_cast<size_t>(shape.kv_heads));
    shape.head_dim = std::min(shape.head_dim, 33);
    const Policy policy = RandomPolicy(random);
    const PlainSequence plain = MakeSequence(random, shape);
    const Budget budget = RandomBudget(random, plain, policy);
    std::optional<absl::StatusOr<Plan>> first;
    for (const int threads : {1, 2, 3}) {
      const std::unique_ptr<Engine> engine = GetParam().make(threads);
      for (const Placement placement : {Placement::kContiguous, Placement::kScattered}) {
        PagedSequence sequence = Page(plain, placement, seed * 10 + static_cast<uint32_t>(threads));
        absl::StatusOr<Plan> plan = PlanEviction(*engine, sequence, policy, budget);
        if (!first) first = plan;
        ASSERT_EQ(plan.status(), first->status());
        if (!plan.ok()) {
          ASSERT_NO_FATAL_FAILURE(ExpectOverflow(sequence, policy, budget, plan.status()));
          continue;
        }
        ASSERT_EQ(plan->mask, (*first)->mask) << "seed " << seed << " threads " << threads;
        ASSERT_EQ(plan->kept, (*first)->kept);
        ASSERT_EQ(plan->scores.size(), (*first)->scores.size());
        for (size_t layer = 0; layer < plan->scores.size(); ++layer) {
          ASSERT_EQ(plan->scores[layer].scores, (*first)->scores[layer].scores)
              << "seed " << seed << " threads " << threads;
        }
      }
    }
  }
}

TEST_P(EngineContract, BadNumbersAreNamedAndChangeNothing) {
  const double bad_numbers[] = {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(),
                                -std::numeric_limits<double>::infinity()};
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const double bad : bad_numbers) {
      Shape shape = Uniform(3, 2, 100);
      shape.dtype = dtype;
      shape.query_dtype = shape.dtype;
      const auto expect_refused = [&](const char* tensor, const char* where,
                                      const std::function<void(PagedSequence&)>& spoil) {
        Random random(5);
        PagedSequence sequence = Page(MakeSequence(random, shape));
        spoil(sequence);
        const std::vector<std::byte> before = sequence.Snapshot();
        const absl::Status status = PlanEviction(*engine_, sequence, PresetNamed("ahakv-ada"), Tokens(60)).status();
        EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << tensor << " " << bad;
        EXPECT_THAT(std::string(status.message()), HasSubstr(tensor));
        EXPECT_THAT(std::string(status.message()), HasSubstr(where));
        EXPECT_EQ(sequence.Snapshot(), before);
      };
      // Unit 3 is layer 1, kv head 1; query head 2 belongs to kv head 1.
      expect_refused("keys", "layer 1, kv head 1, index 17", [&](PagedSequence& s) { s.SetKey(3, 17, 15, bad); });
      expect_refused("values", "layer 2, kv head 0, index 99", [&](PagedSequence& s) { s.SetValue(4, 99, 0, bad); });
      expect_refused("queries", "layer 1, query head 2, row 7", [&](PagedSequence& s) { s.SetQuery(1, 2, 7, 3, bad); });
    }
  }
}

// All numbers that are read are finite; the score that the prior makes of them is not.
TEST_P(EngineContract, ScoresThatOverflowAreNamedAndChangeNothing) {
  Random random(5);
  Shape shape = Uniform(3, 2, 40);
  shape.rows = 32;
  shape.group = 8;
  shape.numbers = Numbers::kNoSignal;  // a score is 32 rows * 8 heads / 40 tokens, but for what early rows do not see
  PagedSequence sequence = Page(MakeSequence(random, shape));
  Policy policy;
  policy.name = "overflow";
  policy.group = Group::kSum;
  policy.refine = {{.kind = Refinement::Kind::kValuePrior, .scale = Refinement::Scale::kNone},
                   {.kind = Refinement::Kind::kMaxPool, .pool = 5}};
  sequence.SetValue(3, 17, 0, std::sqrt(2e38));
  const std::vector<std::byte> before = sequence.Snapshot();
  const absl::Status status = PlanEviction(*engine_, sequence, policy, Tokens(20)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("scores: layer 1, kv head 1, index 17 is not finite"));
  EXPECT_EQ(sequence.Snapshot(), before);
  policy.refine[0].scale = Refinement::Scale::kMean;
  EXPECT_TRUE(PlanEviction(*engine_, sequence, policy, Tokens(20)).ok());
}

TEST_P(EngineContract, BadNumbersThatNobodyReadsDoNotMatter) {
  Random random(5);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  PagedSequence values = Page(MakeSequence(random, Uniform(1, 1, 100)));
  values.SetValue(0, 50, 0, nan);
  EXPECT_TRUE(PlanEviction(*engine_, values, PresetNamed("snapkv"), Tokens(60)).ok());

  PagedSequence streaming = Page(MakeSequence(random, Uniform(2, 2, 100)));
  streaming.PoisonEverything();
  const absl::StatusOr<Plan> plan = PlanEviction(*engine_, streaming, PresetNamed("streaming-llm"), Tokens(10));
  ASSERT_TRUE(plan.ok()) << plan.status();
  ExpectPlanIsRight(streaming, PresetNamed("streaming-llm"), *plan);
  for (size_t j = 0; j < 100; ++j) EXPECT_EQ(Keeps(*plan, 3, j), j < 4 || j >= 94) << j;
}

TEST_P(EngineContract, NoOpReadsNoTensor) {
  for (const std::string& name : PresetNames()) {
    for (const bool gaps : {false, true}) {
      Random random(5);
      Shape shape = Uniform(2, 2, 100);
      shape.lengths = {100, 20, 130, 70};  // 80 on average
      shape.gaps = gaps;
      PagedSequence sequence = Page(MakeSequence(random, shape));
      sequence.PoisonEverything();
      const absl::StatusOr<Plan> plan = PlanEviction(*engine_, sequence, PresetNamed(name.c_str()), Tokens(80));
      ASSERT_TRUE(plan.ok()) << plan.status();
      EXPECT_TRUE(plan->no_op);
      ExpectPlanIsRight(sequence, PresetNamed(name.c_str()), *plan);
      if (PresetNamed(name.c_str()).reads_queries()) {
        EXPECT_FALSE(PlanEviction(*engine_, sequence, PresetNamed(name.c_str()), Tokens(79)).ok()) << name;
      }
    }
  }
}

}  // namespace kvsteward::engine
