#include "kernels/policy/decimal.h"

#include <charconv>

namespace kvsteward::engine {

std::optional<int64_t> ParseDecimal(std::string_view text, int decimals) {
  const size_t point = text.find('.');
  const std::string_view whole = text.substr(0, point);
  const std::string_view fraction = point == text.npos ? std::string_view() : text.substr(point + 1);
  if (whole.empty() || (point != text.npos && fraction.empty())) return std::nullopt;
  if (fraction.size() > static_cast<size_t>(decimals)) return std::nullopt;
  std::string digits(whole);
  digits.append(fraction);
  digits.append(static_cast<size_t>(decimals) - fraction.size(), '0');
  if (digits.find_first_not_of("0123456789") != digits.npos) return std::nullopt;
  int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc()) return std::nullopt;
  return value;
}

std::string PrintDecimal(int64_t value, int decimals) {
  std::string digits = std::to_string(value);
  const auto places = static_cast<size_t>(decimals);
  if (digits.size() <= places) digits.insert(0, places + 1 - digits.size(), '0');
  digits.insert(digits.size() - places, ".");
  digits.erase(digits.find_last_not_of('0') + 1);
  if (digits.back() == '.') digits.pop_back();
  return digits;
}

}  // namespace kvsteward::engine
