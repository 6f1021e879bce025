// Every combination of stages that cannot work, and the stage that its message names.
#include <gtest/gtest.h>

#include <functional>
#include <iterator>

#include "kvsteward/engine/policy.h"
#include "tests/kernels/refusals.h"

namespace kvsteward::engine {
namespace {

TEST(Combinations, SignalsWithoutRows) {
  for (const auto kind :
       {Signal::Kind::kNone, Signal::Kind::kSubmitted, Signal::Kind::kKeyDifference, Signal::Kind::kExpected}) {
    const auto with = [&](std::function<void(Policy&)> change) {
      return [=](Policy& p) {
        p.signal = {.kind = kind};
        p.refine.clear();
        change(p);
      };
    };
    ExpectAllowed("snapkv", {with([](Policy&) {})});
    ExpectRefused(
        "snapkv",
        {
            {"window is 7; it must be absent: with the signal ", with([](Policy& p) { p.window = 7; })},
            {"window is all", with([](Policy& p) { p.window = 0; })},
            {"accumulate is mean", with([](Policy& p) { p.accumulate.kind = Accumulate::Kind::kMean; })},
            {"accumulate is running", with([](Policy& p) { p.accumulate.kind = Accumulate::Kind::kRunning; })},
            {"accumulate.row_pool is 3", with([](Policy& p) { p.accumulate.row_pool = 3; })},
            {"signal is ", with([](Policy& p) { p.select.kind = Select::Kind::kTwoLists; })},
        });
    if (kind == Signal::Kind::kExpected) {
      ExpectAllowed(
          "snapkv",
          {with([](Policy& p) { p.group = {.kind = Group::Kind::kMax, .place = Group::Place::kAfterRefine}; })});
      continue;
    }
    ExpectRefused("snapkv",
                  {
                      {"group is max; it must be absent", with([](Policy& p) { p.group.kind = Group::Kind::kMax; })},
                      {"group.place is after_refine; it must be before_refine",
                       with([](Policy& p) { p.group.place = Group::Place::kAfterRefine; })},
                  });
    const auto over_layer = with([](Policy& p) { p.group = {.kind = Group::Kind::kMax, .span = Group::Span::kLayer}; });
    if (kind == Signal::Kind::kNone) {
      ExpectRefused("snapkv", {
                                  {"group.span is layer", over_layer},
                                  {"refine is a list of 1; it must be empty",
                                   with([](Policy& p) { p.refine = {{.kind = Refinement::Kind::kClampToMean}}; })},
                              });
    } else {
      ExpectAllowed("snapkv", {over_layer});
    }
  }
}

TEST(Combinations, ProtectionThatFitsNoBudget) {
  const auto with = [](int32_t sinks, Protect::Recent kind, int32_t recent, std::vector<int32_t> classes) {
    return [=](Policy& p) {
      p.protect = {.sinks = sinks, .recent_kind = kind, .recent = recent};
      p.protect.classes = classes;
    };
  };
  using Recent = Protect::Recent;
  ExpectRefused("snapkv", {
                              {"protect.recent is k - 2; it must be k less the 4 sinks, or fewer recent tokens",
                               with(4, Recent::kBudgetMinus, 2, {})},
                              {"protect.recent is k - 4; it must be k less the 4 sinks and what the classes protect",
                               with(4, Recent::kBudgetMinus, 4, {1})},
                              {"protect.recent is k - 0", with(0, Recent::kBudgetMinus, 0, {1})},
                              {"protect.recent is k / 1; it must be k / 2", with(1, Recent::kBudgetOver, 1, {})},
                              {"protect.recent is k / 1", with(0, Recent::kBudgetOver, 1, {3})},
                          });
  ExpectAllowed("snapkv", {with(4, Recent::kBudgetMinus, 4, {}), with(4, Recent::kBudgetMinus, 5, {1}),
                           with(0, Recent::kBudgetOver, 1, {}), with(4, Recent::kBudgetOver, 2, {1})});
}

TEST(Combinations, Running) {
  ExpectRefused("h2o",
                {
                    {"window is 32; it must be all with accumulate running", [](Policy& p) { p.window = 32; }},
                    {"group is max; it must be mean or sum", [](Policy& p) { p.group.kind = Group::Kind::kMax; }},
                    {"group.place is after_refine; it must be before_refine",
                     [](Policy& p) { p.group.place = Group::Place::kAfterRefine; }},
                    {"protect.mass is 0.5; it must be 0 with accumulate running",
                     [](Policy& p) { p.protect.mass_ppm = 500'000; }},
                    {"head is cheapest; it must be uniform, ada_floor, ada_blend or table with accumulate running",
                     [](Policy& p) { p.head.kind = HeadBudget::Kind::kCheapest; }},
                    {"head is split", [](Policy& p) { p.head.kind = HeadBudget::Kind::kSplit; }},
                    {"accumulate is running; it must be sum or mean with select two_lists",
                     [](Policy& p) { p.select.kind = Select::Kind::kTwoLists; }},
                });
  ExpectAllowed("h2o", {
                           [](Policy& p) { p.group.kind = Group::Kind::kSum; },
                           [](Policy& p) { p.group.span = Group::Span::kLayer; },
                           [](Policy& p) { p.refine = Preset("ahakv")->refine; },
                           [](Policy& p) { p.signal = Preset("ahakv")->signal; },
                       });
}

TEST(Combinations, WhatReadsAttention) {
  const std::function<void(Policy&)> readers[] = {
      [](Policy& p) { p.protect.mass_ppm = 900'000; },
      [](Policy& p) { p.head.kind = HeadBudget::Kind::kCheapest; },
      [](Policy& p) { p.head.kind = HeadBudget::Kind::kSplit; },
  };
  const char* fields[] = {"protect.mass is 0.9; it must be 0 with the signal ", "head is cheapest; it must be ",
                          "head is split; it must be "};
  for (size_t i = 0; i < std::size(readers); ++i) {
    for (const auto kind : {Signal::Kind::kNone, Signal::Kind::kSubmitted, Signal::Kind::kPower,
                            Signal::Kind::kKeyDifference, Signal::Kind::kExpected}) {
      ExpectRefused("nacl", {{fields[i], [&](Policy& p) {
                                p.signal.kind = kind;
                                readers[i](p);
                              }}});
    }
    for (const auto kind : {Signal::Kind::kSoftmax, Signal::Kind::kStepGainSoftmax, Signal::Kind::kSoftmax1}) {
      ExpectAllowed("nacl", {[&](Policy& p) {
                      p.signal.kind = kind;
                      readers[i](p);
                    }});
    }
  }
}

TEST(Combinations, GroupAfterRefine) {
  using Kind = Refinement::Kind;
  for (const auto kind : {Kind::kClampToMean, Kind::kMassRatio}) {
    ExpectRefused("lava", {{"refine[2] is ", [&](Policy& p) { p.refine.push_back({.kind = kind}); }}});
  }
  for (const auto kind : {Kind::kMaxPool, Kind::kAvgPool}) {
    ExpectAllowed("lava", {[&](Policy& p) { p.refine.push_back({.kind = kind, .pool = 3}); }});
  }
  ExpectAllowed("lava", {[](Policy& p) { p.refine.push_back({.kind = Kind::kValuePrior, .norm = Norm::kL1}); }});
}

TEST(Combinations, SpanLayer) {
  ExpectRefused(
      "tova", {
                  {"refine[0] is value_scale; it must be another refinement with group.span layer",
                   [](Policy& p) { p.refine = {{.kind = Refinement::Kind::kValueScale}}; }},
                  {"layer is global", [](Policy& p) { p.layer.kind = LayerBudget::Kind::kGlobal; }},
                  {"head is ada_floor; it must be uniform with group.span layer",
                   [](Policy& p) { p.head.kind = HeadBudget::Kind::kAdaFloor; }},
                  {"head is ada_blend", [](Policy& p) { p.head.kind = HeadBudget::Kind::kAdaBlend; }},
                  {"head is table", [](Policy& p) { p.head = {.kind = HeadBudget::Kind::kTable, .table_ppm = {{1}}}; }},
                  {"head is cheapest", [](Policy& p) { p.head.kind = HeadBudget::Kind::kCheapest; }},
                  {"head is split", [](Policy& p) { p.head.kind = HeadBudget::Kind::kSplit; }},
                  {"select is two_stage; it must be top_k, top_k_random or two_lists",
                   [](Policy& p) { p.select.kind = Select::Kind::kTwoStage; }},
                  {"select is block", [](Policy& p) { p.select.kind = Select::Kind::kBlock; }},
              });
  ExpectAllowed("tova", {
                            [](Policy& p) { p.select.kind = Select::Kind::kTopKRandom; },
                            [](Policy& p) { p.select.kind = Select::Kind::kTwoLists; },
                            [](Policy& p) { p.refine = Preset("ahakv")->refine; },
                            [](Policy& p) { p.layer.kind = LayerBudget::Kind::kPyramid; },
                            [](Policy& p) { p.layer.kind = LayerBudget::Kind::kEntropy; },
                            [](Policy& p) { p.protect.mass_ppm = 500'000; },
                            [](Policy& p) { p.group.kind = Group::Kind::kMax; },
                        });
}

TEST(Combinations, TwoLists) {
  ExpectRefused("csp",
                {
                    {"accumulate is max; it must be sum or mean with select two_lists",
                     [](Policy& p) { p.accumulate.kind = Accumulate::Kind::kMax; }},
                    {"accumulate is mean_var", [](Policy& p) { p.accumulate.kind = Accumulate::Kind::kMeanVar; }},
                    {"group is max", [](Policy& p) { p.group.kind = Group::Kind::kMax; }},
                    {"group.place is after_refine", [](Policy& p) { p.group.place = Group::Place::kAfterRefine; }},
                    {"refine is a list of 1; it must be empty", [](Policy& p) { p.refine = Preset("snapkv")->refine; }},
                });
  ExpectAllowed("csp", {
                           [](Policy& p) { p.signal.kind = Signal::Kind::kPower; },
                           [](Policy& p) { p.accumulate.kind = Accumulate::Kind::kMean; },
                           [](Policy& p) { p.group.kind = Group::Kind::kSum; },
                           [](Policy& p) { p.head.kind = HeadBudget::Kind::kAdaFloor; },
                       });
}

TEST(Combinations, JointAndBlockBudgets) {
  for (const auto kind : {HeadBudget::Kind::kUniform, HeadBudget::Kind::kAdaBlend, HeadBudget::Kind::kCheapest,
                          HeadBudget::Kind::kSplit}) {
    const auto use = [&](Policy& p) { p.head = {.kind = kind}; };
    ExpectRefused("layer-defensivekv", {{"head is ", use}});
    ExpectRefused("snapkv", {{"head is ", [&](Policy& p) {
                                use(p);
                                p.select.kind = Select::Kind::kBlock;
                              }}});
  }
  ExpectRefused("layer-defensivekv",
                {{"select is block; it must be top_k, top_k_random, two_stage or two_lists with layer global",
                  [](Policy& p) { p.select.kind = Select::Kind::kBlock; }}});
  ExpectAllowed("layer-defensivekv", {
                                         [](Policy& p) { p.select.kind = Select::Kind::kTwoStage; },
                                         [](Policy& p) { p.select.kind = Select::Kind::kTopKRandom; },
                                     });
  ExpectAllowed("kv-compress", {
                                   [](Policy& p) { p.layer.kind = LayerBudget::Kind::kEntropy; },
                                   [](Policy& p) { p.head.alpha_ppm = 500'000; },
                               });
}

}  // namespace
}  // namespace kvsteward::engine
