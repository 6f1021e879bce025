// Policies as YAML: the canonical form, what is read, and that whatever is wrong is refused with its line.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {
namespace {

using ::testing::HasSubstr;

TEST(PolicyYaml, PresetsRoundTrip) {
  for (const std::string& name : PresetNames()) {
    const Policy preset = *Preset(name);
    const std::string yaml = PolicyToYaml(preset);
    const absl::StatusOr<Policy> parsed = PolicyFromYaml(yaml);
    ASSERT_TRUE(parsed.ok()) << parsed.status() << "\n" << yaml;
    EXPECT_EQ(*parsed, preset) << yaml;
    EXPECT_EQ(PolicyToYaml(*parsed), yaml);
  }
}

// Every cell of the table of presets, in the canonical form.
TEST(PolicyYaml, ThePresetsAreThese) {
  const std::vector<std::string> expected = {
      R"(name: ahakv-ada
window: 32
signal: {sg_softmax: {g_min: 1}}
accumulate: sum
group: mean
refine:
  - value_prior: {norm: l2sq, pool: 1, edge: valid, scale: mean}
protect: {sinks: 4, recent: 32}
layer: uniform
head: {ada_floor: {alpha: 0.2}}
select: top_k
)",
      R"(name: ahakv
window: 32
signal: {sg_softmax: {g_min: 0}}
accumulate: sum
group: mean
refine:
  - value_prior: {norm: l2sq, pool: 7, edge: valid, scale: max}
protect: {sinks: 0, recent: 32}
layer: uniform
head: uniform
select: top_k
)",
      R"(name: snapkv
window: 32
signal: softmax
accumulate: sum
group: mean
refine:
  - max_pool: {pool: 7}
protect: {sinks: 0, recent: 32}
layer: uniform
head: uniform
select: top_k
)",
      R"(name: ada-snapkv
window: 32
signal: softmax
accumulate: mean
group: mean
refine:
  - max_pool: {pool: 7}
protect: {sinks: 0, recent: 32}
layer: uniform
head: {ada_blend: {alpha: 0.2}}
select: top_k
)",
      R"(name: streaming-llm
window: 32
signal: none
accumulate: sum
group: mean
refine: []
protect: {sinks: 4, recent: k - 4}
layer: uniform
head: uniform
select: top_k
)",
      R"(name: defensivekv-lite
window: 32
signal: softmax
accumulate: max
group: max
refine:
  - clamp_to_mean
  - value_prior: {norm: l2, pool: 1, edge: valid, scale: max}
protect: {sinks: 0, recent: 32}
layer: uniform
head: {ada_floor: {alpha: 0}}
select: top_k
)",
  };
  std::vector<std::string> presets;
  for (const std::string& name : PresetNames()) presets.push_back(PolicyToYaml(*Preset(name)));
  EXPECT_EQ(presets, expected);
}

TEST(PolicyYaml, EveryFieldIsRead) {
  const absl::StatusOr<Policy> policy = PolicyFromYaml(R"(
name: mine
window: 7
signal: {sg_softmax: {g_min: 0.000001}}
accumulate: max
group: sum
refine:
  - max_pool: {pool: 3}
  - avg_pool: {pool: 5, edge: padded}
  - clamp_to_mean
  - value_prior: {norm: l2, pool: 9, edge: padded, scale: none}
protect: {sinks: 1, recent: k - 2}
layer: uniform
head: {ada_blend: {alpha: 0.123456}}
select: top_k
)");
  ASSERT_TRUE(policy.ok()) << policy.status();
  Policy expected;
  expected.name = "mine";
  expected.window = 7;
  expected.signal = {Signal::Kind::kStepGainSoftmax, 1};
  expected.accumulate = Accumulate::kMax;
  expected.group = Group::kSum;
  expected.refine = {{.kind = Refinement::Kind::kMaxPool, .pool = 3},
                     {.kind = Refinement::Kind::kAvgPool, .pool = 5, .edge = Refinement::Edge::kPadded},
                     {.kind = Refinement::Kind::kClampToMean},
                     {.kind = Refinement::Kind::kValuePrior,
                      .pool = 9,
                      .edge = Refinement::Edge::kPadded,
                      .norm = Refinement::Norm::kL2,
                      .scale = Refinement::Scale::kNone}};
  expected.protect = {.sinks = 1, .recent_kind = Protect::Recent::kBudgetMinus, .recent = 2};
  expected.head = {HeadBudget::Kind::kAdaBlend, 123'456};
  EXPECT_EQ(*policy, expected);
  EXPECT_EQ(*PolicyFromYaml(PolicyToYaml(*policy)), expected);
}

TEST(PolicyYaml, AbsentStagesHaveTheirDefaults) {
  Policy expected;
  expected.name = "plain";
  EXPECT_EQ(*PolicyFromYaml("name: plain"), expected);
  EXPECT_EQ(PolicyFromYaml("{name: x, head: ada_floor}")->head.alpha_ppm, 200'000);
  EXPECT_EQ(PolicyFromYaml("{name: x, signal: {sg_softmax: {}}}")->signal.g_min_ppm, 0);
}

TEST(PolicyYaml, RefusesWithTheLine) {
  const struct {
    const char* yaml;
    const char* message;
  } cases[] = {
      {"name: x\nspeed: 3\n", "line 2: policy has no key 'speed'"},
      {"name: x\nname: y\n", "line 2: policy has the key 'name' twice"},
      {"name: x\n\nprotect: {sinks: 1, sink: 2}\n", "line 3: protect has no key 'sink'"},
      {"name: x\nrefine:\n  - max_pool: {pool: 3}\n  - max_pool: {width: 3}\n",
       "line 4: refine[1] max_pool has no key"},
      {"name: x\nrefine:\n  - max_pool: {pool: 3, edge: valid}\n", "line 3: refine[0] max_pool has no key 'edge'"},
      {"name: x\nrefine: {max_pool: {pool: 3}}\n", "line 2: refine must be a list"},
      {"name: x\nrefine:\n  - clamp_to_mean: {pool: 3}\n", "line 3: refine[0] clamp_to_mean has no fields"},
      {"name: x\nrefine:\n  - min_pool\n", "line 3: refine[0] is 'min_pool'"},
      {"name: x\nrefine:\n  - {max_pool: {pool: 3}, avg_pool: {pool: 3}}\n", "line 3: refine[0] must be one of"},
      {"name: x\nsignal: power\n", "line 2: signal is 'power'; it must be one of none, sg_softmax, softmax"},
      {"name: x\nsignal: {softmax: {g_min: 1}}\n", "line 2: signal softmax has no fields"},
      {"name: x\nsignal: {sg_softmax: {g_min: 0.1234567}}\n", "at most 6 decimals"},
      {"name: x\nsignal: {sg_softmax: {g_min: -1}}\n", "signal.g_min is '-1'"},
      {"name: x\nsignal: {sg_softmax: {g_min: 1e0}}\n", "signal.g_min is '1e0'"},
      {"name: x\nhead: {ada_floor: {alpha: .nan}}\n", "head.alpha is '.nan'"},
      {"name: x\nhead: {ada_floor: {alpha: 99999999999999}}\n", "head.alpha is '99999999999999'"},
      {"name: x\nhead: {uniform: {alpha: 0.2}}\n", "head uniform has no fields"},
      {"name: x\nwindow: 1.5\n", "line 2: window is '1.5'"},
      {"name: x\nwindow: 2147483648\n", "line 2: window is '2147483648'"},
      {"name: x\nwindow: [1]\n", "line 2: window must be a single value"},
      {"name: x\nprotect: {recent: k-4}\n", "protect.recent is 'k-4'"},
      {"name: x\nprotect: {recent: k - }\n", "protect.recent is 'k -'"},
      {"name: x\nprotect: 4\n", "line 2: protect must be a mapping"},
      {"name: x\n[1, 2]: 3\n", "line 2"},
      {"name: x\nselect: {top_k: {}}\n", "line 2: select must be a single value"},
      {"name: x\nlayer: pyramid\n", "line 2: layer is 'pyramid'"},
      {"- name: x\n", "line 1: policy must be a mapping"},
      {"", "0 documents"},
      {"~", "line 1: policy must be a mapping"},
      {"name: x\nhead: {ada_floor: [0.2]}\n", "line 2: head ada_floor must be a mapping"},
      {"name: x\nwindow: 0\n", "window is 0"},
      {"window: 3\n", "name is ''"},
      {"name: x\n  bad: [indent\n", "not valid YAML"},
      {"name: x\n---\nname: y\n", "2 documents"},
      {"a: *b\n", "not valid YAML"},
  };
  for (const auto& c : cases) {
    const absl::StatusOr<Policy> policy = PolicyFromYaml(c.yaml);
    ASSERT_EQ(policy.status().code(), absl::StatusCode::kInvalidArgument) << c.yaml;
    EXPECT_THAT(std::string(policy.status().message()), HasSubstr(c.message)) << c.yaml;
  }
}

TEST(PolicyYaml, HostileText) {
  EXPECT_FALSE(PolicyFromYaml(std::string(1 << 20, ' ')).ok());
  EXPECT_FALSE(PolicyFromYaml(std::string(60'000, '[')).ok());
  EXPECT_FALSE(PolicyFromYaml(std::string(60'000, '{')).ok());
  EXPECT_FALSE(PolicyFromYaml("name: x\nrefine: &a [*a]\n").ok());
  EXPECT_FALSE(PolicyFromYaml(std::string("\0\xff\xfe", 3)).ok());
}

}  // namespace
}  // namespace kvsteward::engine
