#include "client/cpp/status.h"

#include "absl/strings/str_cat.h"

namespace kvsteward {
namespace {

absl::Status Make(int code, const std::string& message, const v1::Shortage* shortage) {
  // A code that gRPC does not know reads as UNKNOWN.
  if (shortage == nullptr || shortage->needed_bytes() == 0) return {static_cast<absl::StatusCode>(code), message};
  std::string text = absl::StrCat(message, " (needed ", shortage->needed_bytes(), " bytes, free ",
                                  shortage->free_bytes(), ", reclaimable ", shortage->reclaimable_bytes());
  if (shortage->retry_after_us() != 0) absl::StrAppend(&text, ", retry after ", shortage->retry_after_us(), " us");
  return {static_cast<absl::StatusCode>(code), text + ")"};
}

}  // namespace

absl::Status ToStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  v1::Shortage shortage;
  const bool short_of_memory =
      status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED && shortage.ParseFromString(status.error_details());
  return Make(status.error_code(), status.error_message(), short_of_memory ? &shortage : nullptr);
}

absl::Status ToStatus(const v1::Outcome& outcome) {
  if (outcome.code() == 0) return absl::OkStatus();
  return Make(static_cast<int>(outcome.code()), outcome.message(),
              outcome.has_shortage() ? &outcome.shortage() : nullptr);
}

}  // namespace kvsteward
