#include "client/cpp/status.h"

#include <string>

#include "absl/strings/cord.h"
#include "kvsteward/client.h"

namespace kvsteward {
namespace {

// A v1::Shortage, serialised.
constexpr char kShortageUrl[] = "type.googleapis.com/kvsteward.v1.Shortage";

}  // namespace

absl::Status ToStatus(const grpc::Status& status) {
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  if (absl::IsResourceExhausted(result) && !status.error_details().empty()) {
    result.SetPayload(kShortageUrl, absl::Cord(status.error_details()));
  }
  return result;
}

absl::Status ToStatus(const v1::Outcome& outcome) {
  absl::Status result(static_cast<absl::StatusCode>(outcome.code()), outcome.message());
  if (outcome.has_shortage()) result.SetPayload(kShortageUrl, absl::Cord(outcome.shortage().SerializeAsString()));
  return result;
}

std::optional<Shortage> ShortageOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kShortageUrl);
  v1::Shortage shortage;
  if (!payload || !shortage.ParseFromString(std::string(*payload))) return std::nullopt;
  return Shortage{shortage.needed_bytes(), shortage.free_bytes(), shortage.reclaimable_bytes(),
                  std::chrono::microseconds(shortage.retry_after_us())};
}

}  // namespace kvsteward
