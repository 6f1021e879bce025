// Requests on their way in: every field is checked that can be checked without state, and becomes an event. Whatever is
// wrong is INVALID_ARGUMENT in one sentence that names the field, its value and what is allowed. Stateless.
#pragma once

#include "absl/status/statusor.h"
#include "kvsteward/engine/policy.h"
#include "kvsteward/v1/steward.pb.h"
#include "service/core/events.h"

namespace kvsteward::rpc {

inline constexpr uint32_t kMaxTokens = 1u << 30;
inline constexpr int kMaxReserveSequences = 1024;
inline constexpr int kMaxEvictSequences = 64;
inline constexpr size_t kMaxInlineQueries = 1u << 20;  // bytes
inline constexpr size_t kMaxPolicyText = 16u << 10;    // bytes
inline constexpr uint64_t kMaxPlanBytes = 1ull << 40;

// The call's id, and a new key on Attach, are left to the caller.
absl::StatusOr<core::AttachAsked> Decode(const v1::AttachRequest& request);
absl::StatusOr<core::HoldOpened> Decode(const v1::HoldRequest& request);
absl::StatusOr<core::CreateSequenceAsked> Decode(const v1::CreateSequenceRequest& request);
absl::StatusOr<core::ReserveAsked> Decode(const v1::ReserveRequest& request);
absl::StatusOr<core::TruncateAsked> Decode(const v1::TruncateRequest& request);
absl::StatusOr<core::EvictAsked> Decode(const v1::EvictRequest& request, const engine::Policy& default_policy);
absl::StatusOr<core::ReleaseSequenceAsked> Decode(const v1::ReleaseSequenceRequest& request);

// A preset's name or a policy as YAML, of at most kMaxPolicyText bytes. Errors do not name the field.
absl::StatusOr<engine::Policy> ReadPolicy(const std::string& text);

}  // namespace kvsteward::rpc
