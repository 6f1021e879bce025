// What every call that names a sequence asks first: was it asked before, may the sequence be touched, and are the
// tokens it says to have written possible.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "service/core/lease.h"
#include "service/core/types.h"

namespace kvsteward::core {

// The result to repeat if the request is the sequence's last one; else nullptr, and `refusal` is not OK if another
// request had its id.
template <typename Result, typename Request>
const Result* Repeated(const Sequence& sequence, const Request& request, Outcome& refusal) {
  if (request.request_id == 0 || request.request_id != sequence.last.id) return nullptr;
  const auto* past = std::get_if<Result>(&sequence.last.result);
  if (past != nullptr && request.request_hash == sequence.last.hash) return past;
  refusal = {Code::kInvalidArgument,
             absl::StrCat("request_id ", request.request_id, " was used for another request of sequence ", sequence.id,
                          "; use a new one"),
             {}};
  return nullptr;
}

// Keeps the result of a job's request for repetition. A repeated result has no policy: it was counted before.
template <typename Result>
void Remember(Sequence& sequence, uint64_t request_id, uint64_t request_hash, Result result) {
  result.policy = nullptr;
  sequence.last = {request_id, request_hash, std::move(result)};
}

inline Outcome CheckIdle(const Sequence& sequence) {
  if (sequence.job == 0) return {};
  return {
      Code::kFailedPrecondition,
      absl::StrCat("sequence ", sequence.id, " is busy on the device; wait for the reply of the call that named it"),
      {}};
}

// The sequence that an item of a call for the device names; nullptr if `result` is its answer already.
template <typename Result, typename Item>
Sequence* NamedBy(Lease& lease, const Item& item, Result& result) {
  result.sequence = item.sequence;
  const auto found = lease.sequences.find(item.sequence);
  if (found == lease.sequences.end()) {
    result.outcome = {Code::kNotFound, absl::StrCat("sequence ", item.sequence, " is unknown; create it first"), {}};
    return nullptr;
  }
  Sequence& sequence = found->second;
  result.version = sequence.version;
  if (const auto* past = Repeated<Result>(sequence, item, result.outcome)) {
    result = *past;
    return nullptr;
  }
  if (result.outcome.ok()) result.outcome = CheckIdle(sequence);
  return result.outcome.ok() ? &sequence : nullptr;
}

// Takes note of what the worker has written.
inline Outcome TakeWritten(Sequence& sequence, int32_t written) {
  if (written < sequence.written) {
    return {Code::kInvalidArgument,
            absl::StrCat("written_tokens is ", written, " after ", sequence.written,
                         " were written; use Truncate to forget tokens"),
            {}};
  }
  if (written > sequence.reserved) {
    return {Code::kInvalidArgument,
            absl::StrCat("written_tokens is ", written, " but only ", sequence.reserved,
                         " are reserved; reserve before writing"),
            {}};
  }
  sequence.written = written;
  return {};
}

}  // namespace kvsteward::core
