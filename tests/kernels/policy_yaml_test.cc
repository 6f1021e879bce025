// Policies as YAML: every form that is read, and that whatever is wrong is refused with its line.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {
namespace {

using ::testing::HasSubstr;

// Expects the stages `yaml`, in a policy that is otherwise all defaults, to be what `change` makes of one; and to be
// read again as the same from its canonical form.
void ExpectRead(const std::string& yaml, const std::function<void(Policy&)>& change) {
  Policy expected;
  expected.name = "x";
  change(expected);
  const absl::StatusOr<Policy> policy = PolicyFromYaml("name: x\n" + yaml);
  ASSERT_TRUE(policy.ok()) << policy.status() << "\n" << yaml;
  EXPECT_EQ(*policy, expected) << yaml;
  const absl::StatusOr<Policy> again = PolicyFromYaml(PolicyToYaml(*policy));
  ASSERT_TRUE(again.ok()) << again.status() << "\n" << PolicyToYaml(*policy);
  EXPECT_EQ(*again, expected) << PolicyToYaml(*policy);
}

TEST(PolicyYaml, AbsentStagesHaveTheirDefaults) {
  ExpectRead("", [](Policy&) {});
  ExpectRead("head: ada_floor", [](Policy& p) { p.head.kind = HeadBudget::Kind::kAdaFloor; });
  ExpectRead("head: {ada_floor: {}}", [](Policy& p) { p.head.kind = HeadBudget::Kind::kAdaFloor; });
  ExpectRead("signal: {sg_softmax: {}}", [](Policy& p) { p.signal.kind = Signal::Kind::kStepGainSoftmax; });
  ExpectRead("layer: pyramid", [](Policy& p) { p.layer.kind = LayerBudget::Kind::kPyramid; });
}

TEST(PolicyYaml, SignalAndWindow) {
  using Kind = Signal::Kind;
  ExpectRead("window: 7", [](Policy& p) { p.window = 7; });
  ExpectRead("window: all", [](Policy& p) { p.window = 0; });
  ExpectRead("signal: none", [](Policy& p) { p.signal.kind = Kind::kNone; });
  ExpectRead("signal: submitted", [](Policy& p) { p.signal.kind = Kind::kSubmitted; });
  ExpectRead("signal: key_difference", [](Policy& p) { p.signal.kind = Kind::kKeyDifference; });
  ExpectRead("signal: expected", [](Policy& p) { p.signal.kind = Kind::kExpected; });
  ExpectRead("signal: softmax1", [](Policy& p) { p.signal.kind = Kind::kSoftmax1; });
  ExpectRead("signal: {softmax: {over: candidates}}", [](Policy& p) { p.signal.over = Signal::Over::kCandidates; });
  ExpectRead("signal: {softmax: {over: visible}}", [](Policy&) {});
  ExpectRead("signal: {sg_softmax: {g_min: 0.000001, over: candidates}}", [](Policy& p) {
    p.signal = {.kind = Kind::kStepGainSoftmax, .g_min_ppm = 1, .over = Signal::Over::kCandidates};
  });
  ExpectRead("signal: {power: {exponent: 1.5}}",
             [](Policy& p) { p.signal = {.kind = Kind::kPower, .exponent_ppm = 1'500'000}; });
}

TEST(PolicyYaml, AccumulateAndGroup) {
  ExpectRead("accumulate: max", [](Policy& p) { p.accumulate.kind = Accumulate::Kind::kMax; });
  ExpectRead("accumulate: {mean: {row_pool: 5}}",
             [](Policy& p) { p.accumulate = {.kind = Accumulate::Kind::kMean, .row_pool = 5}; });
  ExpectRead("accumulate: {mean_var: {gamma: 200}}",
             [](Policy& p) { p.accumulate = {.kind = Accumulate::Kind::kMeanVar, .gamma_ppm = 200 * kPpm}; });
  ExpectRead("window: all\naccumulate: {running: {decay: 0.9, row_pool: 3}}", [](Policy& p) {
    p.window = 0;
    p.accumulate = {.kind = Accumulate::Kind::kRunning, .decay_ppm = 900'000, .row_pool = 3};
  });
  ExpectRead("group: sum", [](Policy& p) { p.group.kind = Group::Kind::kSum; });
  ExpectRead("group: {max: {span: layer, place: after_refine}}", [](Policy& p) {
    p.group = {.kind = Group::Kind::kMax, .span = Group::Span::kLayer, .place = Group::Place::kAfterRefine};
  });
  ExpectRead("group: {mean: {place: before_refine}}", [](Policy&) {});
}

TEST(PolicyYaml, Refine) {
  using Kind = Refinement::Kind;
  ExpectRead("refine: []", [](Policy&) {});
  ExpectRead(R"(refine:
  - max_pool: {pool: 3}
  - avg_pool: {pool: 5, edge: padded}
  - clamp_to_mean
  - mass_ratio
  - value_scale: {norm: l2}
  - value_prior: {norm: l2sq, pool: 9, edge: padded, scale: none}
)",
             [](Policy& p) {
               p.refine = {{.kind = Kind::kMaxPool, .pool = 3},
                           {.kind = Kind::kAvgPool, .pool = 5, .edge = Refinement::Edge::kPadded},
                           {.kind = Kind::kClampToMean},
                           {.kind = Kind::kMassRatio},
                           {.kind = Kind::kValueScale, .norm = Norm::kL2},
                           {.kind = Kind::kValuePrior,
                            .pool = 9,
                            .edge = Refinement::Edge::kPadded,
                            .norm = Norm::kL2Squared,
                            .scale = Refinement::Scale::kNone}};
             });
  ExpectRead("refine: [value_prior: {norm: l1, scale: heads}]", [](Policy& p) {
    p.refine = {{.kind = Kind::kValuePrior, .norm = Norm::kL1, .scale = Refinement::Scale::kHeads}};
  });
}

TEST(PolicyYaml, Protect) {
  using Recent = Protect::Recent;
  ExpectRead("protect: {}", [](Policy&) {});
  ExpectRead("protect: {sinks: 1, recent: 7}", [](Policy& p) { p.protect = {.sinks = 1, .recent = 7}; });
  ExpectRead("protect: {recent: k - 2}",
             [](Policy& p) { p.protect = {.recent_kind = Recent::kBudgetMinus, .recent = 2}; });
  ExpectRead("protect: {recent: k / 3}",
             [](Policy& p) { p.protect = {.recent_kind = Recent::kBudgetOver, .recent = 3}; });
  ExpectRead("protect: {recent: k-4}",
             [](Policy& p) { p.protect = {.recent_kind = Recent::kBudgetMinus, .recent = 4}; });
  ExpectRead("protect: {recent: k/  2}",
             [](Policy& p) { p.protect = {.recent_kind = Recent::kBudgetOver, .recent = 2}; });
  ExpectRead("protect: {classes: [0, 2, 255], mass: 0.9}", [](Policy& p) {
    p.protect = {.classes = {0, 2, 255}, .mass_ppm = 900'000};
  });
  ExpectRead("protect: {classes: []}", [](Policy&) {});
}

TEST(PolicyYaml, Budgets) {
  ExpectRead("layer: {table: {weights: [1, 0.5, 0]}}", [](Policy& p) {
    p.layer = {.kind = LayerBudget::Kind::kTable, .table_ppm = {1'000'000, 500'000, 0}};
  });
  ExpectRead("layer: {pyramid: {beta: 12.5}}",
             [](Policy& p) { p.layer = {.kind = LayerBudget::Kind::kPyramid, .beta_ppm = 12'500'000}; });
  ExpectRead("layer: entropy", [](Policy& p) { p.layer.kind = LayerBudget::Kind::kEntropy; });
  ExpectRead("layer: equal_mass", [](Policy& p) { p.layer.kind = LayerBudget::Kind::kEqualMass; });
  ExpectRead("layer: global\nhead: {ada_floor: {alpha: 0}}", [](Policy& p) {
    p.layer.kind = LayerBudget::Kind::kGlobal;
    p.head = {.kind = HeadBudget::Kind::kAdaFloor, .alpha_ppm = 0};
  });
  ExpectRead("head: {ada_blend: {alpha: 0.123456}}",
             [](Policy& p) { p.head = {.kind = HeadBudget::Kind::kAdaBlend, .alpha_ppm = 123'456}; });
  ExpectRead("head: {table: {fractions: [[0.5, 0.25], [0, 1]]}}", [](Policy& p) {
    p.head = {.kind = HeadBudget::Kind::kTable, .table_ppm = {{500'000, 250'000}, {0, 1'000'000}}};
  });
  ExpectRead("head: {cheapest: {mass: 0.5}}",
             [](Policy& p) { p.head = {.kind = HeadBudget::Kind::kCheapest, .mass_ppm = 500'000}; });
  ExpectRead("head: {split: {full_heads: 2}}",
             [](Policy& p) { p.head = {.kind = HeadBudget::Kind::kSplit, .full_heads = 2}; });
}

TEST(PolicyYaml, Select) {
  ExpectRead("select: top_k", [](Policy&) {});
  ExpectRead("select: {top_k_random: {fraction: 0.37, seed: 4294967295}}", [](Policy& p) {
    p.select = {.kind = Select::Kind::kTopKRandom, .fraction_ppm = 370'000, .seed = 4'294'967'295u};
  });
  ExpectRead("select: {two_stage: {fraction: 0.75}}",
             [](Policy& p) { p.select = {.kind = Select::Kind::kTwoStage, .fraction_ppm = 750'000}; });
  ExpectRead("select: {two_lists: {share: 0.3}}",
             [](Policy& p) { p.select = {.kind = Select::Kind::kTwoLists, .share_ppm = 300'000}; });
  ExpectRead("select: block\nhead: ada_floor", [](Policy& p) {
    p.select.kind = Select::Kind::kBlock;
    p.head.kind = HeadBudget::Kind::kAdaFloor;
  });
}

// Names that a YAML reader would take for something else.
TEST(PolicyYaml, NamesAreText) {
  for (const char* name : {"null", "true", "7", "1.5", "---", "-", "...", "k", "all"}) {
    Policy policy;
    policy.name = name;
    const absl::StatusOr<Policy> again = PolicyFromYaml(PolicyToYaml(policy));
    ASSERT_TRUE(again.ok()) << again.status() << "\n" << PolicyToYaml(policy);
    EXPECT_EQ(*again, policy);
  }
}

// ---- What is refused
// -------------------------------------------------------------------------------------------------

struct Refused {
  const char* yaml;
  const char* message;
};

void ExpectRefused(const std::vector<Refused>& cases) {
  for (const Refused& c : cases) {
    const absl::StatusOr<Policy> policy = PolicyFromYaml(c.yaml);
    ASSERT_EQ(policy.status().code(), absl::StatusCode::kInvalidArgument) << c.yaml;
    EXPECT_THAT(std::string(policy.status().message()), HasSubstr(c.message)) << c.yaml;
  }
}

TEST(PolicyYaml, RefusesTheWrongShape) {
  ExpectRefused({
      {"name: x\nspeed: 3\n", "line 2: policy has no key 'speed'; its keys are accumulate, group, head"},
      {"name: x\nname: y\n", "line 2: policy has the key 'name' twice"},
      {"name: x\n\nprotect: {sinks: 1, sink: 2}\n", "line 3: protect has no key 'sink'"},
      {"name: x\nprotect: {sinks: 1, sinks: 1}\n", "line 2: protect has the key 'sinks' twice"},
      {"name: x\nprotect: 4\n", "line 2: protect must be a mapping with the keys classes, mass, recent, sinks"},
      {"name: x\n[1, 2]: 3\n", "line 2"},
      {"name: x\nwindow: [1]\n", "line 2: window must be a single value"},
      {"name: x\nwindow:\n", "line 2: window must be a single value"},
      {"name: [x]\n", "line 1: name must be a single value"},
      {"name: x\nsignal: [softmax]\n", "line 2: signal must be one of"},
      {"name: x\nsignal: {softmax: {}, power: {}}\n", "line 2: signal must be one of"},
      {"name: x\nsignal: {}\n", "line 2: signal must be one of"},
      {"name: x\nhead: {ada_floor: [0.2]}\n", "line 2: head ada_floor must be a mapping with the keys alpha"},
      {"name: x\nhead:\n  ada_floor: 0.2\n", "line 3: head ada_floor must be a mapping"},
      {"name: x\nhead: {ada_floor: }\n", "line 2: head ada_floor must be a mapping"},
      {"name: x\nrefine: {max_pool: {pool: 3}}\n", "line 2: refine must be a list"},
      {"name: x\nrefine: max_pool\n", "line 2: refine must be a list"},
      {"name: x\nrefine:\n  - {max_pool: {pool: 3}, avg_pool: {pool: 3}}\n", "line 3: refine[0] must be one of"},
      {"name: x\nprotect: {classes: 3}\n", "line 2: protect.classes must be a list"},
      {"name: x\nprotect: {classes: [1, [2]]}\n", "line 2: protect.classes[1] must be a single value"},
      {"name: x\nlayer: {table: {weights: 1}}\n", "line 2: layer.weights must be a list"},
      {"name: x\nlayer: {table: {weights: {a: 1}}}\n", "line 2: layer.weights must be a list"},
      {"name: x\nhead: {table: {fractions: [1]}}\n", "line 2: head.fractions[0] must be a list"},
      {"name: x\nhead: {table: {fractions: [[[1]]]}}\n", "line 2: head.fractions[0][0] must be a single value"},
      {"- name: x\n", "line 1: policy must be a mapping"},
      {"", "line 1: policy must be a mapping"},
      {"# nothing\n", "line 1: policy must be a mapping"},
      {"~", "line 1: policy must be a mapping"},
      {"ahakv", "line 1: policy must be a mapping"},
      {"name: x\n  bad: [indent\n", "not valid YAML"},
      {"name: x\n---\nname: y\n", "line 2: a second document begins; a policy is exactly one mapping"},
      // The parser sees empty documents without end behind this.
      {"\"\",", "a second document begins"},
      {"a: *b\n", "not valid YAML"},
  });
}

TEST(PolicyYaml, RefusesUnknownKindsAndFields) {
  ExpectRefused({
      {"name: x\nsignal: attention\n",
       "line 2: signal is 'attention'; it must be one of none, submitted, softmax, sg_softmax, power, softmax1, "
       "key_difference, expected"},
      {"name: x\nsignal: {attention: {}}\n", "line 2: signal is 'attention'"},
      {"name: x\naccumulate: median\n",
       "line 2: accumulate is 'median'; it must be one of sum, mean, max, mean_var, running"},
      {"name: x\ngroup: min\n", "line 2: group is 'min'; it must be one of mean, max, sum"},
      {"name: x\nrefine:\n  - min_pool\n",
       "line 3: refine[0] is 'min_pool'; it must be one of max_pool, avg_pool, value_prior, value_scale, "
       "clamp_to_mean, mass_ratio"},
      {"name: x\nlayer: cone\n",
       "line 2: layer is 'cone'; it must be one of uniform, table, pyramid, entropy, equal_mass, global"},
      {"name: x\nhead: ada\n",
       "line 2: head is 'ada'; it must be one of uniform, ada_floor, ada_blend, table, cheapest, split"},
      {"name: x\nselect: top\n",
       "line 2: select is 'top'; it must be one of top_k, top_k_random, two_stage, two_lists, block"},
      {"name: x\nsignal: {softmax: {g_min: 1}}\n", "line 2: signal softmax has no key 'g_min'; its keys are over"},
      {"name: x\nsignal: {power: {g_min: 1}}\n", "its keys are exponent, over"},
      {"name: x\nsignal: {none: {over: visible}}\n", "line 2: signal none has no fields; write the name alone"},
      {"name: x\nsignal: {expected: {}}\n", "signal expected has no fields"},
      {"name: x\naccumulate: {sum: {decay: 1}}\n", "accumulate sum has no key 'decay'; its keys are row_pool"},
      {"name: x\naccumulate: {running: {gamma: 1}}\n", "its keys are decay, row_pool"},
      {"name: x\ngroup: {mean: {span: layer, over: all}}\n", "group mean has no key 'over'; its keys are place, span"},
      {"name: x\nrefine:\n  - max_pool: {pool: 3}\n  - max_pool: {width: 3}\n",
       "line 4: refine[1] max_pool has no key 'width'; its keys are pool"},
      {"name: x\nrefine:\n  - max_pool: {pool: 3, edge: valid}\n", "line 3: refine[0] max_pool has no key 'edge'"},
      {"name: x\nrefine:\n  - value_scale: {pool: 3}\n", "refine[0] value_scale has no key 'pool'; its keys are norm"},
      {"name: x\nrefine:\n  - clamp_to_mean: {pool: 3}\n", "line 3: refine[0] clamp_to_mean has no fields"},
      {"name: x\nrefine:\n  - mass_ratio: {}\n", "refine[0] mass_ratio has no fields"},
      {"name: x\nlayer: {entropy: {beta: 2}}\n", "layer entropy has no fields"},
      {"name: x\nlayer: {pyramid: {weights: [1]}}\n", "layer pyramid has no key 'weights'; its keys are beta"},
      {"name: x\nhead: {uniform: {alpha: 0.2}}\n", "head uniform has no fields"},
      {"name: x\nhead: {cheapest: {alpha: 0.2}}\n", "its keys are mass"},
      {"name: x\nhead: {split: {mass: 0.2}}\n", "its keys are full_heads"},
      {"name: x\nselect: {top_k: {}}\n", "line 2: select top_k has no fields"},
      {"name: x\nselect: {two_stage: {seed: 1}}\n", "its keys are fraction"},
      {"name: x\nselect: {block: {}}\n", "select block has no fields"},
  });
}

TEST(PolicyYaml, RefusesWrongValues) {
  ExpectRefused({
      {"name: x\nwindow: 0\n", "line 2: window is '0'; it must be a number of rows from 1 to 2147483647, or 'all'"},
      {"name: x\nwindow: -1\n", "line 2: window is '-1'"},
      {"name: x\nwindow: 1.5\n", "line 2: window is '1.5'"},
      {"name: x\nwindow: 2147483648\n", "line 2: window is '2147483648'"},
      {"name: x\nwindow: ALL\n", "line 2: window is 'ALL'"},
      {"name: x\nsignal: {sg_softmax: {g_min: 0.1234567}}\n",
       "signal.g_min is '0.1234567'; it must be a plain decimal such as 0.5, from 0 to 1000, with at most 6 decimals"},
      {"name: x\nlayer: {pyramid: {beta: 1e3}}\n",
       "layer.beta is '1e3'; it must be a plain decimal such as 0.5, at least 1, with at most 6 decimals"},
      {"name: x\nsignal: {sg_softmax: {g_min: -1}}\n", "line 2: signal.g_min is '-1'"},
      {"name: x\nsignal: {sg_softmax: {g_min: 1e0}}\n", "signal.g_min is '1e0'"},
      {"name: x\nsignal: {softmax: {over: all}}\n", "signal.over is 'all'; it must be one of visible, candidates"},
      {"name: x\nsignal: {power: {exponent: two}}\n", "signal.exponent is 'two'"},
      {"name: x\naccumulate: {sum: {row_pool: 5.0}}\n", "accumulate.row_pool is '5.0'"},
      {"name: x\naccumulate: {mean_var: {gamma: inf}}\n", "accumulate.gamma is 'inf'"},
      {"name: x\ngroup: {mean: {span: all}}\n", "group.span is 'all'; it must be one of group, layer"},
      {"name: x\ngroup: {mean: {place: first}}\n", "group.place is 'first'; it must be one of before_refine"},
      {"name: x\nrefine: [value_prior: {norm: l3}]\n", "refine[0].norm is 'l3'; it must be one of l2sq, l2, l1"},
      {"name: x\nrefine: [value_prior: {scale: min}]\n", "refine[0].scale is 'min'; it must be one of max, mean"},
      {"name: x\nrefine: [avg_pool: {edge: open}]\n", "refine[0].edge is 'open'; it must be one of padded, valid"},
      {"name: x\nprotect: {recent: k 4}\n", "protect.recent is 'k 4'"},
      {"name: x\nprotect: {recent: k}\n", "protect.recent is 'k'"},
      {"name: x\nprotect: {recent: k + 4}\n", "protect.recent is 'k + 4'"},
      {"name: x\nprotect: {recent: k - }\n", "protect.recent is 'k -'"},
      {"name: x\nprotect: {recent: k / }\n", "protect.recent is 'k /'"},
      {"name: x\nprotect: {recent: k / 0.5}\n", "protect.recent is 'k / 0.5'"},
      {"name: x\nprotect: {recent: k * 2}\n", "protect.recent is 'k * 2'"},
      {"name: x\nprotect: {classes: [a]}\n", "protect.classes[0] is 'a'"},
      {"name: x\nprotect: {mass: 90%}\n", "protect.mass is '90%'"},
      {"name: x\nlayer: {table: {weights: [1, x]}}\n", "layer.weights[1] is 'x'"},
      {"name: x\nhead: {ada_floor: {alpha: .nan}}\n", "head.alpha is '.nan'"},
      {"name: x\nhead: {ada_floor: {alpha: 99999999999999}}\n", "head.alpha is '99999999999999'"},
      {"name: x\nhead: {table: {fractions: [[1, -1]]}}\n", "head.fractions[0][1] is '-1'"},
      {"name: x\nhead: {split: {full_heads: many}}\n", "head.full_heads is 'many'"},
      {"name: x\nselect: {top_k_random: {seed: 4294967296}}\n",
       "select.seed is '4294967296'; it must be a whole number below 2^32"},
      {"name: x\nselect: {top_k_random: {seed: -1}}\n", "select.seed is '-1'"},
      {"name: x\nselect: {two_lists: {share: a\tb\xff}}\n", "select.share is 'a?b?'"},
      // What Validate refuses comes without a line, but it names stage and field.
      {"window: 3\n", "name is ''"},
      {"name: x\nprotect: {recent: k / 0}\n", "protect.recent is k / 0; it must be k / N with N at least 1"},
      {"name: x\nprotect: {recent: k - -1}\n", "protect.recent is k - -1; it must be k - N with N at least 0"},
      {"name: x\nprotect: {recent: -1}\n", "protect.recent is -1; it must be at least 0"},
      {"name: x\nsignal: {sg_softmax: {g_min: 1000.000001}}\n",
       "signal.g_min is 1000.000001; it must be from 0 to 1000"},
      {"name: x\nselect: block\n", "head is uniform; it must be ada_floor with select block"},
      {"name: x\nlayer: {table: {}}\n", "layer.weights is a list of 0"},
  });
}

TEST(PolicyYaml, HostileText) {
  EXPECT_FALSE(PolicyFromYaml(std::string(1 << 20, ' ')).ok());
  EXPECT_FALSE(PolicyFromYaml(std::string("\0\xff\xfe", 3)).ok());
  for (const char* deep : {"[", "{", "{a: ", "[{a: "}) {
    std::string text;
    while (text.size() < 60'000) text += deep;
    EXPECT_FALSE(PolicyFromYaml(text).ok());
    EXPECT_FALSE(PolicyFromYaml("name: x\nrefine: " + text).ok());
  }
  ExpectRefused({
      {"name: x\nrefine: &a [*a]\n", "line 2: a policy has no anchors and aliases"},
      {"name: &n x\n", "line 1: a policy has no anchors and aliases"},
      {"name: x\nwindow: &w\n", "line 2: a policy has no anchors and aliases"},
      {"name: x\nwindow: !!int 3\n", "line 2: a policy has no tags; write the value alone"},
      {"name: x\nwindow: !!null\n", "line 2: a policy has no tags"},
      {"name: x\n!mine window: 3\n", "line 2: a policy has no tags"},
      {"name: x\nrefine: !!seq [max_pool]\n", "line 2: a policy has no tags"},
      {"--- !policy\nname: x\n", "a policy has no tags"},
      {"name: x\nrefine: [[[[[[[[1]]]]]]]]\n", "line 2: nested deeper than a policy's stages are"},
      {"name: x\n? [a, b]\n: c\n", "line 2: a key of policy must be a single value"},
      {"name: x\n<<: {window: 3}\n", "line 2: policy has no key '<<'"},
  });
  // A long row that is repeated by name would be 100 million numbers.
  std::string bomb = "name: x\nhead: {table: {fractions: [&r [0";
  for (int i = 0; i < 10'000; ++i) bomb += ",0";
  bomb += "]";
  for (int i = 0; i < 10'000; ++i) bomb += ",*r";
  ASSERT_LT(bomb.size(), 64u * 1024);
  EXPECT_THAT(std::string(PolicyFromYaml(bomb + "]}}\n").status().message()), HasSubstr("no anchors and aliases"));
  // What a user wrote is quoted in part only.
  const absl::Status status = PolicyFromYaml("name: x\nsignal: " + std::string(60'000, 'a')).status();
  EXPECT_LT(status.message().size(), 300u);
}

// The largest tables that Validate lets pass are still read.
TEST(PolicyYaml, TheLargestTables) {
  Policy policy;
  policy.name = std::string(64, 'a');
  policy.layer = {.kind = LayerBudget::Kind::kTable, .table_ppm = std::vector<int64_t>(1024, 999'999'999'999)};
  policy.head = {.kind = HeadBudget::Kind::kTable, .table_ppm = {1024, std::vector<int64_t>(4, 999'999)}};
  for (int32_t i = 0; i < 256; ++i) policy.protect.classes.push_back(i);
  policy.refine.assign(16, {.kind = Refinement::Kind::kValuePrior,
                            .pool = 4095,
                            .edge = Refinement::Edge::kPadded,
                            .scale = Refinement::Scale::kHeads});
  ASSERT_TRUE(Validate(policy).ok()) << Validate(policy);
  const absl::StatusOr<Policy> again = PolicyFromYaml(PolicyToYaml(policy));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(*again, policy);
}

}  // namespace
}  // namespace kvsteward::engine
