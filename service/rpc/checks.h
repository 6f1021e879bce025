// The checks that decoding is made of. Each answers in one sentence that names the field. Stateless.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_set>

#include "absl/status/status.h"
#include "kvsteward/engine/tensor.h"
#include "kvsteward/v1/steward.pb.h"
#include "service/core/events.h"

namespace kvsteward::rpc {

// "<field> is <value>; it must be <allowed>"
absl::Status Wrong(const std::string& field, const std::string& value, const std::string& allowed);
absl::Status CheckRange(const std::string& field, uint64_t value, uint64_t least, uint64_t most);
absl::Status CheckSequence(const std::string& field, uint64_t sequence);
absl::Status ReadSecret(const std::string& field, const std::string& bytes, core::Secret& secret);
absl::Status ReadDType(const std::string& field, v1::DType value, engine::DType& dtype);

// Tells a repeated request from another one with the same id, within this process: FNV-1a of the serialised message.
uint64_t HashOf(const google::protobuf::MessageLite& message);

template <class Request>
absl::Status ReadLease(const Request& request, core::LeaseRef& lease) {
  if (!request.has_lease()) return absl::InvalidArgumentError("lease is missing; send the lease that Attach returned");
  lease.epoch = request.lease().epoch();
  return ReadSecret("lease.key", request.lease().key(), lease.key);
}

// "sequences[2].": where a field of an item is.
std::string Item(int index);

// A call's sequences: 1 to `most`, each named once.
template <class Items>
absl::Status CheckItems(const Items& items, int most) {
  if (items.empty() || items.size() > most) {
    return Wrong("sequences", std::to_string(items.size()) + " items long", "1 to " + std::to_string(most));
  }
  std::unordered_set<uint64_t> seen;
  for (int i = 0; i < items.size(); ++i) {
    const uint64_t sequence = items[i].sequence();
    if (absl::Status status = CheckSequence(Item(i) + "sequence", sequence); !status.ok()) return status;
    if (!seen.insert(sequence).second) {
      return Wrong(Item(i) + "sequence", std::to_string(sequence) + " once more", "named once in a call");
    }
  }
  return absl::OkStatus();
}

}  // namespace kvsteward::rpc
