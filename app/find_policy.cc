#include "app/find_policy.h"

#include "app/read_file.h"

namespace kvsteward::app {

absl::StatusOr<engine::Policy> FindPolicy(const std::string& name) {
  absl::StatusOr<engine::Policy> preset = engine::Preset(name);
  if (preset.ok()) return preset;
  const absl::StatusOr<std::string> text = ReadFile(name);
  if (absl::IsNotFound(text.status())) {
    return absl::InvalidArgumentError(std::string(preset.status().message()) + ", or a file with a policy as YAML");
  }
  if (!text.ok()) return text.status();
  absl::StatusOr<engine::Policy> policy = engine::PolicyFromYaml(*text);
  if (!policy.ok()) return absl::InvalidArgumentError(name + ": " + std::string(policy.status().message()));
  return policy;
}

}  // namespace kvsteward::app
