// Settings: the keys of a configuration bound to the fields that they set. Plain values; the fields must outlive them.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace kvsteward::app {

struct Setting {
  std::string key;      // "arena.bytes"
  std::string allowed;  // completes "it must be ..."
  // Sets the field, or says why not: what completes "arena.bytes ...".
  std::function<absl::Status(const std::string& text)> set;
  std::function<std::string()> get;  // what `set` would take
};

Setting SizeSetting(const std::string& key, uint64_t* field, uint64_t least, uint64_t most);
Setting NumberSetting(const std::string& key, int64_t* field, int64_t least, int64_t most);
// Decimals from 0 to below 1, of at most six places, kept as millionths.
Setting FractionSetting(const std::string& key, int64_t* ppm);
Setting TextSetting(const std::string& key, std::string* field, const std::string& allowed,
                    std::function<bool(const std::string& text)> is_allowed);
// Its value's text is too long to be said again: `check` says what is wrong with it.
Setting LongTextSetting(const std::string& key, std::string* field, const std::string& allowed,
                        std::function<absl::Status(const std::string& text)> check);
Setting ChoiceSetting(const std::string& key, std::string* field, const std::vector<std::string>& choices);

}  // namespace kvsteward::app
