// Requests on their way in: every field is checked that can be checked without state, and becomes an event. Whatever is
// wrong is INVALID_ARGUMENT in one sentence that names the field, its value and what is allowed. Stateless.
#pragma once

#include "absl/status/statusor.h"
#include "kvsteward/v1/admin.pb.h"
#include "kvsteward/v1/steward.pb.h"
#include "service/core/events.h"

namespace kvsteward::rpc {

inline constexpr uint32_t kMaxTokens = 1u << 30;
inline constexpr int kMaxReserveSequences = 1024;
inline constexpr int kMaxEvictSequences = 64;
inline constexpr size_t kMaxInlineBytes = 1u << 20;  // of a window's queries, or of an input
inline constexpr uint64_t kMaxPlanBytes = 1ull << 40;
inline constexpr uint64_t kMaxInputBytes = 1ull << 40;

// The call's id, and a new key on Attach, are left to the caller.
absl::StatusOr<core::AttachAsked> Decode(const v1::AttachRequest& request);
absl::StatusOr<core::HoldOpened> Decode(const v1::HoldRequest& request);
absl::StatusOr<core::CreateSequenceAsked> Decode(const v1::CreateSequenceRequest& request);
absl::StatusOr<core::ReserveAsked> Decode(const v1::ReserveRequest& request);
absl::StatusOr<core::TruncateAsked> Decode(const v1::TruncateRequest& request);
absl::StatusOr<core::ObserveAsked> Decode(const v1::ObserveRequest& request);
absl::StatusOr<core::EvictAsked> Decode(const v1::EvictRequest& request);
absl::StatusOr<core::ReleaseSequenceAsked> Decode(const v1::ReleaseSequenceRequest& request);
absl::StatusOr<core::SetTenantAsked> Decode(const v1::SetTenantRequest& request);

}  // namespace kvsteward::rpc
