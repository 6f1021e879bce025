// Every rule a policy must keep, and the field that its message names.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {
namespace {

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
  for (const std::string& name : PresetNames()) EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(name));
}

TEST(Validate, WhatPresetsRead) {
  EXPECT_TRUE(Preset("ahakv-ada")->reads_queries());
  EXPECT_TRUE(Preset("ahakv-ada")->reads_values());
  EXPECT_TRUE(Preset("snapkv")->reads_queries());
  EXPECT_FALSE(Preset("snapkv")->reads_values());
  EXPECT_FALSE(Preset("streaming-llm")->reads_queries());
  EXPECT_FALSE(Preset("streaming-llm")->reads_values());
}

TEST(Validate, RefusesNamingTheField) {
  const struct {
    const char* field;
    std::function<void(Policy&)> spoil;
  } cases[] = {
      {"name", [](Policy& p) { p.name = ""; }},
      {"name", [](Policy& p) { p.name = "a b"; }},
      {"name", [](Policy& p) { p.name = std::string(65, 'a'); }},
      {"window", [](Policy& p) { p.window = 0; }},
      {"window", [](Policy& p) { p.window = -1; }},
      {"signal.g_min", [](Policy& p) { p.signal.g_min_ppm = -1; }},
      {"signal.g_min",
       [](Policy& p) {
         p.signal = {Signal::Kind::kSoftmax, 1};
       }},
      {"refine",
       [](Policy& p) {
         p.signal = {Signal::Kind::kNone, 0};
       }},
      {"refine", [](Policy& p) { p.refine.assign(17, p.refine[0]); }},
      {"refine[0].pool", [](Policy& p) { p.refine[0].pool = 0; }},
      {"refine[0].pool", [](Policy& p) { p.refine[0].pool = -3; }},
      {"refine[1].pool", [](Policy& p) { p.refine.push_back({.kind = Refinement::Kind::kMaxPool, .pool = 4}); }},
      {"refine[0].pool", [](Policy& p) { p.refine[0].pool = 4097; }},
      {"protect.sinks", [](Policy& p) { p.protect.sinks = -1; }},
      {"protect.recent", [](Policy& p) { p.protect.recent = -1; }},
      {"head.alpha", [](Policy& p) { p.head.alpha_ppm = -1; }},
      {"head.alpha", [](Policy& p) { p.head.alpha_ppm = 1'000'001; }},
  };
  for (const auto& c : cases) {
    Policy policy = *Preset("ahakv-ada");
    c.spoil(policy);
    const absl::Status status = Validate(policy);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.field;
    EXPECT_THAT(std::string(status.message()), ::testing::StartsWith(std::string(c.field) + " is "));
  }
}

TEST(Validate, EdgesAreAllowed) {
  Policy policy = *Preset("ahakv-ada");
  policy.head.alpha_ppm = 1'000'000;
  policy.refine[0].pool = 4095;
  policy.refine.resize(16, policy.refine[0]);
  policy.protect = {};
  policy.window = 1;
  EXPECT_TRUE(Validate(policy).ok());
  policy.head.alpha_ppm = 0;
  EXPECT_TRUE(Validate(policy).ok());
}

}  // namespace
}  // namespace kvsteward::engine
