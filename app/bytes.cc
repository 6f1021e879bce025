#include "app/bytes.h"

#include <array>
#include <charconv>
#include <cstdio>

namespace kvsteward::app {
namespace {

constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
constexpr uint64_t kMost = 1ull << 62;

}  // namespace

std::optional<uint64_t> ParseBytes(const std::string& text) {
  uint64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc()) return std::nullopt;
  std::string unit(rest, end);
  unit.erase(0, unit.find_first_not_of(' '));
  if (unit.empty() && rest != end) return std::nullopt;
  for (size_t i = 0; i < kUnits.size(); ++i) {
    if (!(unit.empty() ? i == 0 : unit == kUnits[i])) continue;
    const unsigned shift = 10 * static_cast<unsigned>(i);
    if (number > kMost >> shift) return std::nullopt;
    return number << shift;
  }
  return std::nullopt;
}

std::string ExactBytes(uint64_t bytes) {
  size_t unit = 0;
  while (unit + 1 < kUnits.size() && bytes != 0 && bytes % 1024 == 0) {
    bytes /= 1024;
    ++unit;
  }
  return std::to_string(bytes) + (unit == 0 ? "" : kUnits[unit]);
}

std::string RoughBytes(uint64_t bytes) {
  double number = static_cast<double>(bytes);
  size_t unit = 0;
  while (unit + 1 < kUnits.size() && number >= 1024) {
    number /= 1024;
    ++unit;
  }
  char text[32];
  std::snprintf(text, sizeof(text), unit == 0 ? "%.0f %s" : "%.2f %s", number, kUnits[unit]);
  return text;
}

}  // namespace kvsteward::app
