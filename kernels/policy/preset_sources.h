// Where the presets come from, for those who print them. Stateless; thread-safe.
#pragma once

#include <string_view>

namespace kvsteward::engine {

struct PresetSource {
  std::string_view preset;
  std::string_view papers;   // "arXiv 2404.14469"
  std::string_view changes;  // what differs from them in a line; presets.cc says more
};

// REQUIRES: there is such a preset.
const PresetSource& SourceOf(std::string_view name);

}  // namespace kvsteward::engine
