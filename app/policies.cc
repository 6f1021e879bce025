#include <cstdio>
#include <string>

#include "app/commands.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::app {

int Policies() {
  std::string text;
  for (const std::string& name : engine::PresetNames()) {
    const std::string policy = engine::PolicyToYaml(*engine::Preset(name));
    text += "---\n" + policy + (policy.back() == '\n' ? "" : "\n");
  }
  std::fputs(text.c_str(), stdout);
  return 0;
}

}  // namespace kvsteward::app
