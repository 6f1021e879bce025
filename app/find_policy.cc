#include "app/find_policy.h"

#include <fstream>
#include <sstream>

namespace kvsteward::app {

absl::StatusOr<engine::Policy> FindPolicy(const std::string& name) {
  absl::StatusOr<engine::Policy> preset = engine::Preset(name);
  if (preset.ok()) return preset;
  std::ifstream file(name);
  std::ostringstream text;
  if (!(text << file.rdbuf())) {
    return absl::InvalidArgumentError(std::string(preset.status().message()) + ", or a file with a policy as YAML");
  }
  absl::StatusOr<engine::Policy> policy = engine::PolicyFromYaml(text.str());
  if (!policy.ok()) return absl::InvalidArgumentError(name + ": " + std::string(policy.status().message()));
  return policy;
}

}  // namespace kvsteward::app
