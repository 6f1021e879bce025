#include "app/settings.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "app/bytes.h"

namespace kvsteward::app {
namespace {

template <class Number>
bool ParseNumber(const std::string& text, Number& number) {
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  return error == std::errc() && rest == end;
}

absl::Status Refuse(const std::string& text, const std::string& allowed) {
  return absl::InvalidArgumentError("is \"" + text.substr(0, 200) + "\"; it must be " + allowed);
}

// Of a field that `set` sets, if the text is allowed.
Setting ValueSetting(const std::string& key, const std::string& allowed,
                     std::function<bool(const std::string& text)> set, std::function<std::string()> get) {
  return {key, allowed,
          [allowed, set = std::move(set)](const std::string& text) {
            return set(text) ? absl::OkStatus() : Refuse(text, allowed);
          },
          std::move(get)};
}

}  // namespace

Setting SizeSetting(const std::string& key, uint64_t* field, uint64_t least, uint64_t most) {
  return ValueSetting(
      key, "a size such as 64MiB, from " + ExactBytes(least) + " to " + ExactBytes(most),
      [=](const std::string& text) {
        const std::optional<uint64_t> bytes = ParseBytes(text);
        if (!bytes || *bytes < least || *bytes > most) return false;
        *field = *bytes;
        return true;
      },
      [=] { return ExactBytes(*field); });
}

Setting NumberSetting(const std::string& key, int64_t* field, int64_t least, int64_t most) {
  return ValueSetting(
      key, "a number from " + std::to_string(least) + " to " + std::to_string(most),
      [=](const std::string& text) {
        int64_t number = 0;
        if (!ParseNumber(text, number) || number < least || number > most) return false;
        *field = number;
        return true;
      },
      [=] { return std::to_string(*field); });
}

Setting FractionSetting(const std::string& key, int64_t* ppm) {
  return ValueSetting(
      key, "a fraction such as 0.01, from 0 to below 1",
      [=](const std::string& text) {
        if (text == "0") {
          *ppm = 0;
          return true;
        }
        if (text.size() < 3 || text.size() > 8 || text.compare(0, 2, "0.") != 0) return false;
        std::string digits = text.substr(2);
        if (digits.find_first_not_of("0123456789") != std::string::npos) return false;
        digits.resize(6, '0');
        return ParseNumber(digits, *ppm);
      },
      [=] {
        if (*ppm == 0) return std::string("0");
        std::string digits = std::to_string(*ppm);
        digits.insert(0, 6 - digits.size(), '0');
        digits.erase(digits.find_last_not_of('0') + 1);
        return "0." + digits;
      });
}

Setting TextSetting(const std::string& key, std::string* field, const std::string& allowed,
                    std::function<bool(const std::string& text)> is_allowed) {
  return LongTextSetting(key, field, allowed, [allowed, is_allowed = std::move(is_allowed)](const std::string& text) {
    return is_allowed(text) ? absl::OkStatus() : Refuse(text, allowed);
  });
}

Setting LongTextSetting(const std::string& key, std::string* field, const std::string& allowed,
                        std::function<absl::Status(const std::string& text)> check) {
  return {key, allowed,
          [field, check = std::move(check)](const std::string& text) {
            absl::Status status = check(text);
            if (status.ok()) *field = text;
            return status;
          },
          [field] { return *field; }};
}

Setting ChoiceSetting(const std::string& key, std::string* field, const std::vector<std::string>& choices) {
  std::string allowed;
  for (const std::string& choice : choices) {
    if (!allowed.empty()) allowed += " or ";
    allowed += choice;
  }
  return TextSetting(key, field, allowed, [choices](const std::string& text) {
    return std::find(choices.begin(), choices.end(), text) != choices.end();
  });
}

}  // namespace kvsteward::app
