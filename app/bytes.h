// Sizes as people write them. Stateless.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace kvsteward::app {

// "4096", "64KiB", "64 MiB", "2GiB", "1TiB"; nothing else, and nothing above 2^62.
std::optional<uint64_t> ParseBytes(const std::string& text);
// The same number in the largest unit that divides it.
std::string ExactBytes(uint64_t bytes);
// For reading: three digits or so, "1.50 GiB".
std::string RoughBytes(uint64_t bytes);

}  // namespace kvsteward::app
