// Bad numbers and missing inputs: INVALID_ARGUMENT naming tensor, layer, head and index, and nothing changed.
#include <gmock/gmock.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "tests/kernels/engine_contract.h"
#include "tests/kernels/plan_check.h"

namespace kvsteward::engine {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

Policy Submitted() {
  Policy policy;
  policy.name = "submitted";
  policy.signal.kind = Signal::Kind::kSubmitted;
  return policy;
}

// One number of a sequence of 3 layers, 2 kv heads, 4 query heads and 100 tokens per unit made bad.
struct Spoiled {
  std::string tensor;
  std::string where;  // as the message says it
  std::function<void(PagedSequence&, double)> spoil;
};

struct Place {
  int32_t layer;
  int32_t kv_head;
  int32_t query_head;
  int32_t token;
  int32_t row;
  int32_t x;
  size_t unit() const { return static_cast<size_t>(layer) * 2 + static_cast<size_t>(kv_head); }
};

Place RandomPlace(Random& random, const Shape& shape) {
  return {Between(random, 0, 2),
          Between(random, 0, 1),
          Between(random, 0, 3),
          Between(random, 0, 99),
          Between(random, 0, shape.rows - 1),
          Between(random, 0, shape.head_dim - 1)};
}

std::string Layer(const Place& at) { return "layer " + std::to_string(at.layer); }
std::string Token(const Place& at) {
  return Layer(at) + ", kv head " + std::to_string(at.kv_head) + ", index " + std::to_string(at.token);
}
std::string QueryHead(const Place& at) { return Layer(at) + ", query head " + std::to_string(at.query_head); }

Spoiled Key(const Place& at) {
  return {"keys", Token(at), [at](PagedSequence& s, double bad) { s.SetKey(at.unit(), at.token, at.x, bad); }};
}
Spoiled Value(const Place& at) {
  return {"values", Token(at), [at](PagedSequence& s, double bad) { s.SetValue(at.unit(), at.token, at.x, bad); }};
}
Spoiled Query(const Place& at) {
  return {"queries", QueryHead(at) + ", row " + std::to_string(at.row),
          [at](PagedSequence& s, double bad) { s.SetQuery(at.layer, at.query_head, at.row, at.x, bad); }};
}
Spoiled Score(const Place& at) {
  return {"scores", Token(at), [at](PagedSequence& s, double bad) {
            s.EditInputs([&](reference::Inputs& inputs) { inputs.scores[at.unit()][at.token] = bad; });
          }};
}
Spoiled ProjectedNorm(const Place& at) {
  return {"projected_norms", Token(at), [at](PagedSequence& s, double bad) {
            s.EditInputs([&](reference::Inputs& inputs) { inputs.projected_norms[at.unit()][at.token] = bad; });
          }};
}
Spoiled QueryMean(const Place& at) {
  return {"query_mean", QueryHead(at) + ", index " + std::to_string(at.x), [at](PagedSequence& s, double bad) {
            const auto d = static_cast<size_t>(s.plain().contents.head_dim);
            const size_t head = static_cast<size_t>(at.layer) * 4 + static_cast<size_t>(at.query_head);
            s.EditInputs([&](reference::Inputs& inputs) { inputs.query_mean[head * d + at.x] = bad; });
          }};
}
Spoiled QueryCovariance(const Place& at) {
  return {"query_covariance", QueryHead(at), [at](PagedSequence& s, double bad) {
            const auto d = static_cast<size_t>(s.plain().contents.head_dim);
            const size_t head = static_cast<size_t>(at.layer) * 4 + static_cast<size_t>(at.query_head);
            s.EditInputs(
                [&](reference::Inputs& inputs) { inputs.query_covariance[(head * d + at.row % d) * d + at.x] = bad; });
          }};
}

}  // namespace

TEST_P(EngineContract, BadNumbersAreNamedAndChangeNothing) {
  uint32_t seed = 0;
  const auto expect_refused = [&](const Policy& policy, const std::vector<double>& bad_numbers,
                                  const std::function<Spoiled(const Place&)>& pick) {
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      for (const double bad : bad_numbers) {
        for (int i = 0; i < 3; ++i) {
          Random random(++seed);
          Shape shape = UniformShape(3, 2, 100);
          shape.head_dim = 7;
          shape.dtype = dtype;
          shape.query_dtype = shape.dtype;
          shape.moments = policy.reads_moments();
          shape.rows = policy.window == 1 ? 1 : shape.rows;
          PagedSequence sequence = Page(MakeSequence(random, shape));
          Place at = RandomPlace(random, shape);
          // What sees no row, or stands where no expected score is, is not read: rows are the last, sinks the first.
          if (policy.reads_queries()) at.token = Between(random, 4, 90);
          if (policy.reads_moments()) at.token = Between(random, 4, 99);
          const Spoiled spoiled = pick(at);
          spoiled.spoil(sequence, bad);
          const std::string before = sequence.Snapshot();
          const absl::Status status = PlanEviction(*engine_, sequence, policy, Tokens(60), /*commit=*/true).status();
          SCOPED_TRACE(policy.name + " seed " + std::to_string(seed) + " bad " + std::to_string(bad));
          EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << spoiled.tensor;
          EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr(spoiled.tensor + ":"), HasSubstr(spoiled.where)));
          EXPECT_TRUE(sequence.Snapshot() == before);
        }
      }
    }
  };
  const std::vector<double> not_finite = {kNan, kInfinity, -kInfinity};
  const std::vector<double> not_positive = {kNan, kInfinity, -kInfinity, -1e-30};
  for (const std::string& name : PresetNames()) {
    const Policy policy = PresetNamed(name);
    if (policy.reads_queries()) expect_refused(policy, not_finite, Query);
    if (policy.reads_keys()) expect_refused(policy, not_finite, Key);
    if (policy.reads_values()) expect_refused(policy, not_finite, Value);
    if (policy.reads_projected_norms()) expect_refused(policy, not_positive, ProjectedNorm);
    if (policy.reads_moments()) expect_refused(policy, not_finite, QueryMean);
    if (policy.reads_moments()) expect_refused(policy, not_finite, QueryCovariance);
  }
  expect_refused(Submitted(), not_positive, Score);
}

// All numbers that are read are finite; the score that the prior makes of them is not.
TEST_P(EngineContract, ScoresThatOverflowAreNamedAndChangeNothing) {
  Random random(5);
  Shape shape = UniformShape(3, 2, 40);
  shape.rows = 32;
  shape.group = 8;
  shape.numbers = Numbers::kNoSignal;  // a score is 32 rows * 8 heads / 40 tokens, but for what early rows do not see
  PagedSequence sequence = Page(MakeSequence(random, shape));
  Policy policy;
  policy.name = "overflow";
  policy.group.kind = Group::Kind::kSum;
  policy.refine = {{.kind = Refinement::Kind::kValuePrior, .scale = Refinement::Scale::kNone},
                   {.kind = Refinement::Kind::kMaxPool, .pool = 5}};
  sequence.SetValue(3, 17, 0, std::sqrt(2e38));
  const std::string before = sequence.Snapshot();
  const absl::Status status = PlanEviction(*engine_, sequence, policy, Tokens(20)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("scores: layer 1, kv head 1, index 17 is not finite"));
  EXPECT_TRUE(sequence.Snapshot() == before);
  policy.refine[0].scale = Refinement::Scale::kMean;
  EXPECT_TRUE(PlanEviction(*engine_, sequence, policy, Tokens(20)).ok());
}

// Every number of a value is finite; its norm is not.
TEST_P(EngineContract, NormsThatOverflowAreNamed) {
  Random random(5);
  PagedSequence sequence = Page(MakeSequence(random, UniformShape(2, 2, 40)));
  sequence.SetValue(3, 17, 2, 1e30);
  const absl::Status status = PlanEviction(*engine_, sequence, PresetNamed("defensivekv-lite"), Tokens(36)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("values: layer 1, kv head 1, index 17"));
}

TEST_P(EngineContract, MissingInputsAreNamed) {
  Policy two_stage = PresetNamed("snapkv");
  two_stage.name = "two-stage";
  two_stage.select = {.kind = Select::Kind::kTwoStage};
  Policy classes = PresetNamed("snapkv");
  classes.protect.classes = {1};
  const Policy expected = PresetNamed("expected-attention");
  const struct {
    Policy policy;
    std::vector<std::string> words;
    std::function<void(SequenceView&)> spoil;
  } cases[] = {
      {PresetNamed("snapkv"), {"window"}, [](SequenceView& s) { s.window = {}; }},
      {PresetNamed("h2o"), {"window"}, [](SequenceView& s) { s.window = {}; }},
      {Submitted(), {"submitted", "scores"}, [](SequenceView& s) { s.inputs.scores = {}; }},
      {Submitted(), {"scores"}, [](SequenceView& s) { s.inputs.scores = s.inputs.scores.subspan(1); }},
      {two_stage, {"two_stage", "projected_norms"}, [](SequenceView& s) { s.inputs.projected_norms = {}; }},
      {two_stage,
       {"projected_norms"},
       [](SequenceView& s) { s.inputs.projected_norms = s.inputs.projected_norms.subspan(1); }},
      {classes, {"classes"}, [](SequenceView& s) { s.inputs.classes = {}; }},
      {classes, {"classes"}, [](SequenceView& s) { s.inputs.classes = s.inputs.classes.subspan(1); }},
      {PresetNamed("csp"), {"two_lists", "classes"}, [](SequenceView& s) { s.inputs.classes = {}; }},
      {expected, {"expected", "query_mean"}, [](SequenceView& s) { s.inputs.query_mean = {}; }},
      {expected, {"expected", "query_covariance"}, [](SequenceView& s) { s.inputs.query_covariance = {}; }},
      {expected, {"query_mean"}, [](SequenceView& s) { s.inputs.query_mean = s.inputs.query_mean.subspan(1); }},
      {expected,
       {"query_covariance"},
       [](SequenceView& s) { s.inputs.query_covariance = s.inputs.query_covariance.subspan(1); }},
  };
  Random random(5);
  Shape shape = UniformShape(2, 2, 60);
  shape.moments = true;
  PagedSequence sequence = Page(MakeSequence(random, shape));
  for (const auto& c : cases) {
    SCOPED_TRACE(c.policy.name + " " + c.words.back());
    SequenceView view = sequence.View();
    ASSERT_TRUE(engine_->StartEviction(view, c.policy, Tokens(50), {}).ok());
    c.spoil(view);
    const absl::Status status = engine_->StartEviction(view, c.policy, Tokens(50), {}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    for (const std::string& word : c.words) EXPECT_THAT(std::string(status.message()), HasSubstr(word));
  }
}

}  // namespace kvsteward::engine
