// Every rule that a stage must keep by itself, and the field that its message names.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kvsteward/engine/policy.h"
#include "tests/kernels/refusals.h"

namespace kvsteward::engine {
namespace {

using ::testing::HasSubstr;

TEST(Validate, PresetsAreValid) {
  for (const std::string& name : PresetNames()) {
    const absl::StatusOr<Policy> preset = Preset(name);
    ASSERT_TRUE(preset.ok()) << preset.status();
    EXPECT_EQ(preset->name, name);
    EXPECT_TRUE(Validate(*preset).ok()) << Validate(*preset);
  }
}

TEST(Validate, UnknownPresetListsTheNames) {
  const absl::Status status = Preset("best").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  for (const std::string& name : PresetNames()) EXPECT_THAT(std::string(status.message()), HasSubstr(name));
}

TEST(Validate, WhatPresetsRead) {
  const struct {
    const char* preset;
    bool queries, keys, norms, values, classes, attention;
  } cases[] = {
      {"ahakv-ada", true, true, true, true, false, false},
      {"snapkv", true, true, false, false, false, false},
      {"streaming-llm", false, false, false, false, false, false},
      {"keydiff", false, true, false, false, false, false},
      {"expected-attention", false, true, true, true, false, false},
      {"lava", true, true, true, true, false, false},
      {"defensivekv", true, true, true, true, false, true},
      {"fastgen", true, true, false, false, false, true},
      {"task-kv", true, true, false, true, false, true},
      {"csp", true, true, false, false, true, false},
      {"h2o", true, true, false, false, false, false},
  };
  for (const auto& c : cases) {
    const Policy p = *Preset(c.preset);
    EXPECT_EQ(p.reads_queries(), c.queries) << c.preset;
    EXPECT_EQ(p.reads_keys(), c.keys) << c.preset;
    EXPECT_EQ(p.reads_norms(), c.norms) << c.preset;
    EXPECT_EQ(p.reads_values(), c.values) << c.preset;
    EXPECT_EQ(p.reads_classes(), c.classes) << c.preset;
    EXPECT_EQ(p.reads_attention(), c.attention) << c.preset;
    EXPECT_EQ(p.running(), p.name == "h2o");
    EXPECT_EQ(p.reads_moments(), p.name == "expected-attention");
    EXPECT_FALSE(p.reads_scores());
  }
  EXPECT_EQ(Preset("ahakv-ada")->norm(), Norm::kL2Squared);
  EXPECT_EQ(Preset("defensivekv")->norm(), Norm::kL2Squared);
  EXPECT_EQ(Preset("lava")->norm(), Norm::kL1);
  EXPECT_TRUE(Preset("criticalkv")->reads_projected_norms());
  Policy flagged = *Preset("snapkv");
  flagged.protect.classes = {0};
  EXPECT_TRUE(flagged.reads_classes());
}

TEST(Validate, NameAndWindow) {
  ExpectRefused("snapkv", {
                              {"name is ''", [](Policy& p) { p.name = ""; }},
                              {"name is 'a b'", [](Policy& p) { p.name = "a b"; }},
                              {"name is 'A'", [](Policy& p) { p.name = "A"; }},
                              {"name is 'a?b'", [](Policy& p) { p.name = "a\nb"; }},
                              {"name is 'aaaa", [](Policy& p) { p.name = std::string(65, 'a'); }},
                              {"window is -1", [](Policy& p) { p.window = -1; }},
                          });
  ExpectAllowed("snapkv", {
                              [](Policy& p) { p.name = std::string(64, 'z'); },
                              [](Policy& p) { p.window = 0; },
                              [](Policy& p) { p.window = 1; },
                          });
}

TEST(Validate, Signal) {
  ExpectRefused("ahakv", {
                             {"signal.g_min is negative", [](Policy& p) { p.signal.g_min_ppm = -1; }},
                             {"signal.g_min is 1000.000001; it must be from 0 to 1000",
                              [](Policy& p) { p.signal.g_min_ppm = 1'000'000'001; }},
                         });
  ExpectAllowed("ahakv", {[](Policy& p) { p.signal.g_min_ppm = 1'000'000'000; }});
  ExpectRefused("kv-compress", {
                                   {"signal.exponent is 0;", [](Policy& p) { p.signal.exponent_ppm = 0; }},
                                   {"signal.exponent is negative;", [](Policy& p) { p.signal.exponent_ppm = -1; }},
                                   {"signal.exponent is 4.000001; it must be from 0.000001 to 4",
                                    [](Policy& p) { p.signal.exponent_ppm = 4'000'001; }},
                               });
  ExpectAllowed("kv-compress", {
                                   [](Policy& p) { p.signal.exponent_ppm = 1; },
                                   [](Policy& p) { p.signal.exponent_ppm = 4'000'000; },
                               });
}

TEST(Validate, Accumulate) {
  ExpectRefused(
      "snapkv",
      {
          {"accumulate.row_pool is 0; it must be odd, from 1 to 33", [](Policy& p) { p.accumulate.row_pool = 0; }},
          {"accumulate.row_pool is 2", [](Policy& p) { p.accumulate.row_pool = 2; }},
          {"accumulate.row_pool is 35", [](Policy& p) { p.accumulate.row_pool = 35; }},
          {"accumulate.row_pool is -3", [](Policy& p) { p.accumulate.row_pool = -3; }},
          {"accumulate.gamma is negative",
           [](Policy& p) { p.accumulate = {.kind = Accumulate::Kind::kMeanVar, .gamma_ppm = -1}; }},
          {"accumulate.gamma is 1000000.000001; it must be from 0 to 1000000",
           [](Policy& p) { p.accumulate = {.kind = Accumulate::Kind::kMeanVar, .gamma_ppm = 1'000'000'000'001}; }},
      });
  ExpectRefused("h2o", {
                           {"accumulate.decay is negative", [](Policy& p) { p.accumulate.decay_ppm = -1; }},
                           {"accumulate.decay is 1.000001", [](Policy& p) { p.accumulate.decay_ppm = 1'000'001; }},
                       });
  ExpectAllowed("snapkv", {
                              [](Policy& p) { p.accumulate.row_pool = 33; },
                              [](Policy& p) {
                                p.accumulate = {.kind = Accumulate::Kind::kMeanVar, .gamma_ppm = 1'000'000'000'000};
                              },
                          });
  ExpectAllowed("h2o", {
                           [](Policy& p) { p.accumulate.decay_ppm = 0; },
                           [](Policy& p) { p.accumulate.row_pool = 3; },
                       });
}

TEST(Validate, Refine) {
  ExpectRefused("ahakv-ada",
                {
                    {"refine is a list of 17", [](Policy& p) { p.refine.assign(17, p.refine[0]); }},
                    {"refine[0].pool is 0", [](Policy& p) { p.refine[0].pool = 0; }},
                    {"refine[0].pool is -3", [](Policy& p) { p.refine[0].pool = -3; }},
                    {"refine[0].pool is 4097", [](Policy& p) { p.refine[0].pool = 4097; }},
                    {"refine[1].pool is 4",
                     [](Policy& p) { p.refine.push_back({.kind = Refinement::Kind::kMaxPool, .pool = 4}); }},
                    {"refine[1].pool is 2",
                     [](Policy& p) { p.refine.push_back({.kind = Refinement::Kind::kAvgPool, .pool = 2}); }},
                    // One kind of norm: l1 or the two others.
                    {"refine[1].norm is l1; it must be l2 or l2sq",
                     [](Policy& p) { p.refine.push_back({.kind = Refinement::Kind::kValueScale, .norm = Norm::kL1}); }},
                    {"refine[2].norm is l2; it must be l1",
                     [](Policy& p) {
                       p.refine[0].norm = Norm::kL1;
                       p.refine.push_back({.kind = Refinement::Kind::kClampToMean});
                       p.refine.push_back({.kind = Refinement::Kind::kValueScale, .norm = Norm::kL2});
                     }},
                });
  ExpectAllowed("ahakv-ada",
                {
                    [](Policy& p) {
                      p.refine[0].pool = 4095;
                      p.refine.resize(16, p.refine[0]);
                    },
                    [](Policy& p) { p.refine.push_back({.kind = Refinement::Kind::kValueScale, .norm = Norm::kL2}); },
                    [](Policy& p) { p.refine.clear(); },
                });
}

TEST(Validate, Protect) {
  ExpectRefused(
      "snapkv",
      {
          {"protect.sinks is -1", [](Policy& p) { p.protect.sinks = -1; }},
          {"protect.recent is -1", [](Policy& p) { p.protect.recent = -1; }},
          {"protect.recent is k / 0; it must be k / N with N at least 1",
           [](Policy& p) { p.protect = {.recent_kind = Protect::Recent::kBudgetOver, .recent = 0}; }},
          {"protect.classes[0] is -1; it must be from 0 to 255", [](Policy& p) { p.protect.classes = {-1}; }},
          {"protect.classes[1] is 256",
           [](Policy& p) {
             p.protect.classes = {1, 256};
           }},
          {"protect.classes[1] is 1; it must be above",
           [](Policy& p) {
             p.protect.classes = {1, 1};
           }},
          {"protect.classes[2] is 2",
           [](Policy& p) {
             p.protect.classes = {1, 3, 2};
           }},
          {"protect.mass is negative", [](Policy& p) { p.protect.mass_ppm = -1; }},
          {"protect.mass is 1.000001; it must be from 0 to 1", [](Policy& p) { p.protect.mass_ppm = 1'000'001; }},
      });
  ExpectAllowed("snapkv",
                {
                    [](Policy& p) { p.protect = {}; },
                    [](Policy& p) {
                      p.protect.classes = {0, 255};
                    },
                    [](Policy& p) { p.protect.mass_ppm = 1'000'000; },
                    [](Policy& p) { p.protect = {.recent_kind = Protect::Recent::kBudgetOver, .recent = 1}; },
                    [](Policy& p) { p.protect = {.recent_kind = Protect::Recent::kBudgetMinus, .recent = 0}; },
                });
}

TEST(Validate, LayerBudget) {
  const auto table = [](std::vector<int64_t> weights) {
    return [weights](Policy& p) { p.layer = {.kind = LayerBudget::Kind::kTable, .table_ppm = weights}; };
  };
  ExpectRefused("snapkv", {
                              {"layer.weights is a list of 0", table({})},
                              {"layer.weights is a list of 1025", table(std::vector<int64_t>(1025, 1))},
                              {"layer.weights[1] is negative", table({1, -1})},
                              {"layer.weights[0] is 1000000.000001", table({1'000'000'000'001})},
                          });
  ExpectAllowed("snapkv", {table({0}), table(std::vector<int64_t>(1024, 1'000'000'000'000))});
  ExpectRefused("pyramidkv",
                {{"layer.beta is 0.999999; it must be at least 1", [](Policy& p) { p.layer.beta_ppm = 999'999; }}});
  ExpectAllowed("pyramidkv", {[](Policy& p) { p.layer.beta_ppm = 1'000'000; }});
}

TEST(Validate, HeadBudget) {
  const auto table = [](std::vector<std::vector<int64_t>> fractions) {
    return [fractions](Policy& p) { p.head = {.kind = HeadBudget::Kind::kTable, .table_ppm = fractions}; };
  };
  ExpectRefused(
      "snapkv",
      {
          {"head.fractions is a list of 0", table({})},
          {"head.fractions[0] is a list of 0", table({{}})},
          {"head.fractions[1] is a list of 1", table({{1, 2}, {1}})},
          {"head.fractions[1][0] is negative", table({{1}, {-1}})},
          {"head.fractions[0][1] is 1.000001; it must be from 0 to 1", table({{1, 1'000'001}})},
          {"head.fractions is a list of 1025", table(std::vector<std::vector<int64_t>>(1025, {1}))},
          {"head.fractions is a list of 1024 times 5; it must be of at most 4096 numbers",
           table(std::vector<std::vector<int64_t>>(1024, {1, 1, 1, 1, 1}))},
          {"head.alpha is negative",
           [](Policy& p) { p.head = {.kind = HeadBudget::Kind::kAdaBlend, .alpha_ppm = -1}; }},
          {"head.alpha is 1.000001",
           [](Policy& p) { p.head = {.kind = HeadBudget::Kind::kAdaFloor, .alpha_ppm = 1'000'001}; }},
          {"head.mass is negative", [](Policy& p) { p.head = {.kind = HeadBudget::Kind::kCheapest, .mass_ppm = -1}; }},
          {"head.mass is 1.000001",
           [](Policy& p) { p.head = {.kind = HeadBudget::Kind::kCheapest, .mass_ppm = 1'000'001}; }},
          {"head.full_heads is 0; it must be at least 1",
           [](Policy& p) { p.head = {.kind = HeadBudget::Kind::kSplit, .full_heads = 0}; }},
          {"head.fractions is a list of 2; it must be a list of 3",
           [&](Policy& p) {
             p.layer = {.kind = LayerBudget::Kind::kTable, .table_ppm = {1, 2, 3}};
             table({{1}, {1}})(p);
           }},
      });
  ExpectAllowed("snapkv", {
                              table({{0, 0}, {1'000'000, 0}}),
                              table(std::vector<std::vector<int64_t>>(1024, {1, 1, 1, 1})),
                              [](Policy& p) { p.head = {.kind = HeadBudget::Kind::kAdaBlend, .alpha_ppm = 1'000'000}; },
                              [](Policy& p) { p.head = {.kind = HeadBudget::Kind::kAdaFloor, .alpha_ppm = 0}; },
                              [](Policy& p) { p.head = {.kind = HeadBudget::Kind::kCheapest, .mass_ppm = 0}; },
                          });
}

TEST(Validate, Select) {
  for (const auto kind : {Select::Kind::kTopKRandom, Select::Kind::kTwoStage}) {
    ExpectRefused(
        "snapkv",
        {
            {"select.fraction is negative", [&](Policy& p) { p.select = {.kind = kind, .fraction_ppm = -1}; }},
            {"select.fraction is 1.000001", [&](Policy& p) { p.select = {.kind = kind, .fraction_ppm = 1'000'001}; }},
        });
    ExpectAllowed("snapkv", {
                                [&](Policy& p) { p.select = {.kind = kind, .fraction_ppm = 0}; },
                                [&](Policy& p) { p.select = {.kind = kind, .fraction_ppm = 1'000'000}; },
                            });
  }
  ExpectAllowed("nacl", {[](Policy& p) { p.select.seed = 0xffffffffu; }});
  ExpectRefused("csp", {
                           {"select.share is negative", [](Policy& p) { p.select.share_ppm = -1; }},
                           {"select.share is 1.000001", [](Policy& p) { p.select.share_ppm = 1'000'001; }},
                       });
}

// A field that a kind does not have keeps its default; else two different policies would print alike.
TEST(Validate, FieldsOfOtherKinds) {
  ExpectRefused(
      "snapkv",
      {
          {"signal.g_min is 0.000001; it must be absent: signal softmax has no such field",
           [](Policy& p) { p.signal.g_min_ppm = 1; }},
          {"signal.exponent is 3; it must be absent", [](Policy& p) { p.signal.exponent_ppm = 3 * kPpm; }},
          {"signal.over is candidates; it must be absent: signal submitted has no such field",
           [](Policy& p) { p.signal = {.kind = Signal::Kind::kSubmitted, .over = Signal::Over::kCandidates}; }},
          {"accumulate.gamma is 1;", [](Policy& p) { p.accumulate.gamma_ppm = kPpm; }},
          {"accumulate.decay is 0.5;", [](Policy& p) { p.accumulate.decay_ppm = 500'000; }},
          {"refine[0].norm is l1; it must be absent: refine[0] max_pool has no such field",
           [](Policy& p) { p.refine[0].norm = Norm::kL1; }},
          {"refine[0].edge is padded;", [](Policy& p) { p.refine[0].edge = Refinement::Edge::kPadded; }},
          {"refine[0].scale is none;", [](Policy& p) { p.refine[0].scale = Refinement::Scale::kNone; }},
          {"refine[0].pool is 3;", [](Policy& p) { p.refine = {{.kind = Refinement::Kind::kMassRatio, .pool = 3}}; }},
          {"layer.weights is a list of 1;", [](Policy& p) { p.layer.table_ppm = {1}; }},
          {"layer.beta is 3;", [](Policy& p) { p.layer.beta_ppm = 3 * kPpm; }},
          {"head.alpha is 0.1;", [](Policy& p) { p.head.alpha_ppm = 100'000; }},
          {"head.fractions is a list of 1;", [](Policy& p) { p.head.table_ppm = {{1}}; }},
          {"head.mass is 0.5;", [](Policy& p) { p.head.mass_ppm = 500'000; }},
          {"head.full_heads is 2;", [](Policy& p) { p.head.full_heads = 2; }},
          {"select.fraction is 0.1;", [](Policy& p) { p.select.fraction_ppm = 100'000; }},
          {"select.seed is 1;", [](Policy& p) { p.select.seed = 1; }},
          {"select.share is 0.2;", [](Policy& p) { p.select.share_ppm = 200'000; }},
      });
}

}  // namespace
}  // namespace kvsteward::engine
