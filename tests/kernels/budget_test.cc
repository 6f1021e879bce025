// What a budget's text means, and how many tokens it is.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "kvsteward/engine/plan.h"

namespace kvsteward::engine {
namespace {

constexpr Geometry kGeometry = {.layers = 2, .query_heads = 8, .kv_heads = 4, .head_dim = 128, .dtype = DType::kBF16};

TEST(ParseBudget, Accepts) {
  const struct {
    const char* text;
    Budget budget;
  } cases[] = {
      {"1", {Budget::Kind::kTokens, 1}},
      {"102", {Budget::Kind::kTokens, 102}},
      {"2147483647", {Budget::Kind::kTokens, 2147483647}},
      {"10%", {Budget::Kind::kPpmOfSeen, 100'000}},
      {"12.5%", {Budget::Kind::kPpmOfSeen, 125'000}},
      {"0.0001%", {Budget::Kind::kPpmOfSeen, 1}},
      {"100%", {Budget::Kind::kPpmOfSeen, 1'000'000}},
      {"100.0000%", {Budget::Kind::kPpmOfSeen, 1'000'000}},
      {"7B", {Budget::Kind::kBytes, 7}},
      {"3KiB", {Budget::Kind::kBytes, 3072}},
      {"64MiB", {Budget::Kind::kBytes, 64 << 20}},
      {"2GiB", {Budget::Kind::kBytes, int64_t{2} << 30}},
  };
  for (const auto& c : cases) {
    const absl::StatusOr<Budget> budget = ParseBudget(c.text);
    ASSERT_TRUE(budget.ok()) << budget.status();
    EXPECT_EQ(*budget, c.budget) << c.text;
  }
}

TEST(ParseBudget, Refuses) {
  for (const char* text : {"",
                           "0",
                           "-1",
                           "+1",
                           "1.5",
                           "1e3",
                           " 1",
                           "1 ",
                           "2147483648",
                           "0%",
                           "100.1%",
                           "101%",
                           "-5%",
                           "%",
                           "1.00001%",
                           ".5%",
                           "5.%",
                           "1,5%",
                           "0B",
                           "MiB",
                           "1.5MiB",
                           "1KB",
                           "1kib",
                           "8589934592GiB",
                           "9223372036854775808B",
                           "64 MiB",
                           "ten",
                           "0x10",
                           "NaN",
                           "1%%",
                           "99999999999999999999"}) {
    const absl::StatusOr<Budget> budget = ParseBudget(text);
    ASSERT_EQ(budget.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(budget.status().message()), ::testing::HasSubstr("'" + std::string(text) + "'"));
  }
}

int64_t Tokens(Budget budget, int64_t seen, const Geometry& geometry = kGeometry) {
  const absl::StatusOr<int64_t> tokens = BudgetTokens(budget, geometry, seen);
  if (tokens.ok()) return *tokens;
  EXPECT_EQ(tokens.status().code(), absl::StatusCode::kInvalidArgument);
  return -1;
}

TEST(BudgetTokens, Tokens) {
  EXPECT_EQ(Tokens({Budget::Kind::kTokens, 102}, 10), 102);
  EXPECT_EQ(Tokens({Budget::Kind::kTokens, 0}, 10), -1);
  EXPECT_EQ(Tokens({Budget::Kind::kTokens, INT64_MAX}, 10), -1);
}

TEST(BudgetTokens, PercentIsOfTokensSeenRoundedDown) {
  EXPECT_EQ(Tokens({Budget::Kind::kPpmOfSeen, 100'000}, 1024), 102);
  EXPECT_EQ(Tokens({Budget::Kind::kPpmOfSeen, 1'000'000}, 1024), 1024);
  EXPECT_EQ(Tokens({Budget::Kind::kPpmOfSeen, 1}, 1'000'000), 1);
  EXPECT_EQ(Tokens({Budget::Kind::kPpmOfSeen, 1}, 999'999), -1);
  EXPECT_EQ(Tokens({Budget::Kind::kPpmOfSeen, 100'000}, 0), -1);
  EXPECT_EQ(Tokens({Budget::Kind::kPpmOfSeen, 1'000'001}, 1024), -1);
}

TEST(BudgetTokens, BytesIncludeMetadataAndWholeBlocks) {
  // A row of a unit is 2 * 128 * 2 bytes of K and V and 12 of metadata; 8 units.
  const int64_t row = 8 * (2 * 128 * 2 + 12);
  EXPECT_EQ(Tokens({Budget::Kind::kBytes, row * 115}, 1024), 100);
  EXPECT_EQ(Tokens({Budget::Kind::kBytes, row * 116 - 1}, 1024), 100);
  EXPECT_EQ(Tokens({Budget::Kind::kBytes, row * 116}, 1024), 101);
  EXPECT_EQ(Tokens({Budget::Kind::kBytes, 1}, 1024), 1);
  EXPECT_EQ(Tokens({Budget::Kind::kBytes, 0}, 1024), -1);
  EXPECT_EQ(Tokens({Budget::Kind::kBytes, INT64_MAX}, 1024), INT32_MAX);
  Geometry f32 = kGeometry;
  f32.dtype = DType::kF32;
  EXPECT_EQ(Tokens({Budget::Kind::kBytes, 8 * (2 * 128 * 4 + 12) * 115}, 1024, f32), 100);
}

}  // namespace
}  // namespace kvsteward::engine
