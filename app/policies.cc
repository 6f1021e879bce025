#include <cstdio>
#include <string>

#include "app/commands.h"
#include "kernels/policy/preset_sources.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::app {

int Policies(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names.empty() ? engine::PresetNames() : names) {
    const absl::StatusOr<engine::Policy> preset = engine::Preset(name);
    if (!preset.ok()) {
      std::fprintf(stderr, "kvsteward: %s\n", std::string(preset.status().message()).c_str());
      return 2;
    }
    const engine::PresetSource& source = engine::SourceOf(name);
    text += "---\n# source: " + std::string(source.papers) + "\n# changes: " + std::string(source.changes) + "\n" +
            engine::PolicyToYaml(*preset);
  }
  std::fputs(text.c_str(), stdout);
  return 0;
}

}  // namespace kvsteward::app
