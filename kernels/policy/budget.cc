// Budgets: what a user writes, and what it means for a sequence.
#include <algorithm>
#include <limits>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "kernels/policy/decimal.h"
#include "kvsteward/engine/plan.h"

namespace kvsteward::engine {
namespace {

// Position (int32), value norm and running score (floats) of a token, private to the sidecar.
constexpr int64_t kMetadataBytes = 12;
constexpr int64_t kMaxTokens = std::numeric_limits<int32_t>::max();

struct Unit {
  std::string_view suffix;
  int64_t bytes;
};
constexpr Unit kByteUnits[] = {
    {"KiB", int64_t{1} << 10}, {"MiB", int64_t{1} << 20}, {"GiB", int64_t{1} << 30}, {"B", 1}};

absl::Status Refused(std::string_view text, const std::string& why) {
  return absl::InvalidArgumentError("budget is '" + std::string(text.substr(0, 64)) + "'; " + why);
}

}  // namespace

absl::StatusOr<Budget> ParseBudget(std::string_view text) {
  if (text.ends_with('%')) {
    const std::optional<int64_t> ppm = ParseDecimal(text.substr(0, text.size() - 1), 4);
    if (!ppm || *ppm < 1 || *ppm > kPpm) {
      return Refused(text, "a percentage must be above 0, at most 100, and have at most 4 decimals");
    }
    return Budget{Budget::Kind::kPpmOfSeen, *ppm};
  }
  for (const Unit& unit : kByteUnits) {
    if (!text.ends_with(unit.suffix)) continue;
    const std::optional<int64_t> count = ParseDecimal(text.substr(0, text.size() - unit.suffix.size()), 0);
    if (!count || *count < 1 || *count > std::numeric_limits<int64_t>::max() / unit.bytes) {
      return Refused(text, "bytes must be a whole number of at least 1, below 2^63 in all");
    }
    return Budget{Budget::Kind::kBytes, *count * unit.bytes};
  }
  const std::optional<int64_t> tokens = ParseDecimal(text, 0);
  if (!tokens || *tokens < 1 || *tokens > kMaxTokens) {
    return Refused(text, "write tokens per kv head (102), a share of the tokens seen (10%) or bytes (64MiB)");
  }
  return Budget{Budget::Kind::kTokens, *tokens};
}

absl::StatusOr<int64_t> BudgetTokens(const Budget& budget, const Geometry& geometry, int64_t seen) {
  if (budget.amount < 1) {
    return absl::InvalidArgumentError("budget is " + std::to_string(budget.amount) + "; it must be at least 1");
  }
  switch (budget.kind) {
    case Budget::Kind::kTokens:
      if (budget.amount > kMaxTokens) {
        return absl::InvalidArgumentError("budget is " + std::to_string(budget.amount) +
                                          " tokens; it must be below 2^31");
      }
      return budget.amount;
    case Budget::Kind::kPpmOfSeen: {
      if (budget.amount > kPpm) {
        return absl::InvalidArgumentError("budget is " + PrintDecimal(budget.amount, 4) + "%; it must be at most 100%");
      }
      const int64_t tokens = budget.amount * std::clamp<int64_t>(seen, 0, kMaxTokens) / kPpm;
      if (tokens < 1) {
        return absl::InvalidArgumentError("budget is " + PrintDecimal(budget.amount, 4) +
                                          "%, which is no token of the " + std::to_string(seen) +
                                          " seen; it must be larger");
      }
      return tokens;
    }
    case Budget::Kind::kBytes: {
      // 15 tokens less, so that whole blocks never exceed the bytes.
      const int64_t row_bytes = 2 * static_cast<int64_t>(geometry.token_bytes()) + kMetadataBytes;
      const int64_t units = int64_t{geometry.layers} * geometry.kv_heads;
      if (units < 1 || row_bytes > std::numeric_limits<int64_t>::max() / units) {
        return absl::InvalidArgumentError("the geometry has no layer or no kv head, or is too large");
      }
      return std::clamp<int64_t>(budget.amount / (units * row_bytes) - (kBlockTokens - 1), 1, kMaxTokens);
    }
  }
  return absl::InvalidArgumentError("budget has an unknown kind");
}

}  // namespace kvsteward::engine
