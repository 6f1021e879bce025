// Policies as text, from requests and from the configuration. Stateless.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::rpc {

inline constexpr size_t kMaxPolicyText = 64u << 10;  // bytes

// A preset's name or a policy as YAML. Errors name the stage at fault, but not the field.
absl::StatusOr<engine::Policy> ReadPolicy(const std::string& text);

// Likewise; an empty text stands for the default and leaves nullptr. INVALID_ARGUMENT names the field.
absl::Status ReadPolicy(const std::string& field, const std::string& text,
                        std::shared_ptr<const engine::Policy>& policy);

}  // namespace kvsteward::rpc
