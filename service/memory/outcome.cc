#include "service/memory/outcome.h"

#include <string>

namespace kvsteward::memory {
namespace {

core::Code ToCode(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kOk:
      return core::Code::kOk;
    case absl::StatusCode::kCancelled:
      return core::Code::kCancelled;
    case absl::StatusCode::kInvalidArgument:
      return core::Code::kInvalidArgument;
    case absl::StatusCode::kDeadlineExceeded:
      return core::Code::kDeadlineExceeded;
    case absl::StatusCode::kNotFound:
      return core::Code::kNotFound;
    case absl::StatusCode::kResourceExhausted:
      return core::Code::kResourceExhausted;
    case absl::StatusCode::kFailedPrecondition:
      return core::Code::kFailedPrecondition;
    case absl::StatusCode::kAborted:
      return core::Code::kAborted;
    default:
      return core::Code::kUnavailable;
  }
}

}  // namespace

core::Outcome ToOutcome(const absl::Status& status) {
  return {.code = ToCode(status.code()), .message = std::string(status.message()), .shortage = {}};
}

}  // namespace kvsteward::memory
