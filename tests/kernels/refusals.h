// What a preset becomes when it is spoiled, and what Validate says to it. Stateless.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {

struct Spoiled {
  const char* message;  // what the message begins with
  std::function<void(Policy&)> spoil;
};

// Spoils one preset in many ways.
inline void ExpectRefused(const char* preset, const std::vector<Spoiled>& cases) {
  for (const Spoiled& c : cases) {
    Policy policy = *Preset(preset);
    ASSERT_TRUE(Validate(policy).ok());
    c.spoil(policy);
    const absl::Status status = Validate(policy);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << preset << ": " << c.message;
    EXPECT_THAT(std::string(status.message()), ::testing::StartsWith(c.message)) << preset;
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("; it must be ")) << preset;
  }
}

inline void ExpectAllowed(const char* preset, const std::vector<std::function<void(Policy&)>>& changes) {
  for (size_t i = 0; i < changes.size(); ++i) {
    Policy policy = *Preset(preset);
    changes[i](policy);
    EXPECT_TRUE(Validate(policy).ok()) << preset << " " << i << ": " << Validate(policy);
  }
}

}  // namespace kvsteward::engine
