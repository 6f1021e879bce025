// Where the presets come from. Stateless; thread-safe.
#pragma once

#include <string>
#include <string_view>

namespace kvsteward::engine {

// The papers that a preset follows: "arXiv 2404.14469". REQUIRES: there is such a preset.
std::string PresetSource(std::string_view name);

}  // namespace kvsteward::engine
