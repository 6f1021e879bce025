#include <cstdio>
#include <string>

#include "app/commands.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::app {

int Policies() {
  std::string text;
  for (const std::string& name : engine::PresetNames()) {
    text += "---\n" + engine::PolicyToYaml(*engine::Preset(name));
  }
  std::fputs(text.c_str(), stdout);
  return 0;
}

}  // namespace kvsteward::app
