#include "service/rpc/checks.h"

#include <cstring>

namespace kvsteward::rpc {

absl::Status Wrong(const std::string& field, const std::string& value, const std::string& allowed) {
  return absl::InvalidArgumentError(field + " is " + value + "; it must be " + allowed);
}

absl::Status CheckRange(const std::string& field, uint64_t value, uint64_t least, uint64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return Wrong(field, std::to_string(value), std::to_string(least) + " to " + std::to_string(most));
}

absl::Status CheckSequence(const std::string& field, uint64_t sequence) {
  return sequence != 0 ? absl::OkStatus() : Wrong(field, "0", "an id of the worker's own, not 0");
}

absl::Status ReadSecret(const std::string& field, const std::string& bytes, core::Secret& secret) {
  if (bytes.size() != secret.size()) return Wrong(field, std::to_string(bytes.size()) + " bytes long", "16 bytes long");
  std::memcpy(secret.data(), bytes.data(), secret.size());
  return absl::OkStatus();
}

absl::Status ReadDType(const std::string& field, v1::DType value, engine::DType& dtype) {
  switch (value) {
    case v1::D_TYPE_F32:
      dtype = engine::DType::kF32;
      return absl::OkStatus();
    case v1::D_TYPE_F16:
      dtype = engine::DType::kF16;
      return absl::OkStatus();
    case v1::D_TYPE_BF16:
      dtype = engine::DType::kBF16;
      return absl::OkStatus();
    default:
      return Wrong(field, std::to_string(value), "D_TYPE_F32, D_TYPE_F16 or D_TYPE_BF16");
  }
}

uint64_t HashOf(const google::protobuf::MessageLite& message) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : message.SerializeAsString()) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

std::string Item(int index) { return "sequences[" + std::to_string(index) + "]."; }

}  // namespace kvsteward::rpc
