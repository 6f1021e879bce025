#include "service/rpc/read_policy.h"

#include <utility>

namespace kvsteward::rpc {

absl::StatusOr<engine::Policy> ReadPolicy(const std::string& text) {
  if (text.size() > kMaxPolicyText) {
    return absl::InvalidArgumentError("its text is " + std::to_string(text.size()) + " bytes long; at most " +
                                      std::to_string(kMaxPolicyText) + " are read");
  }
  // A policy as YAML is a mapping, and none does without a colon; no preset's name has one.
  return text.find(':') == std::string::npos ? engine::Preset(text) : engine::PolicyFromYaml(text);
}

absl::Status ReadPolicy(const std::string& field, const std::string& text,
                        std::shared_ptr<const engine::Policy>& policy) {
  policy = nullptr;
  if (text.empty()) return absl::OkStatus();
  absl::StatusOr<engine::Policy> read = ReadPolicy(text);
  if (!read.ok()) {
    return absl::InvalidArgumentError(field + " is refused: " + std::string(read.status().message()));
  }
  policy = std::make_shared<const engine::Policy>(*std::move(read));
  return absl::OkStatus();
}

}  // namespace kvsteward::rpc
