// Decimals as exact integers. Stateless; thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace kvsteward::engine {

// "12.5" with 6 decimals is 12500000. Nothing for text that is no plain non-negative decimal number, has more decimals
// than `decimals`, or overflows.
std::optional<int64_t> ParseDecimal(std::string_view text, int decimals);

// The shortest text that ParseDecimal reads as `value`. REQUIRES: value >= 0.
std::string PrintDecimal(int64_t value, int decimals);

}  // namespace kvsteward::engine
