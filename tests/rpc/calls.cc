#include "tests/rpc/calls.h"

#include "tests/rpc/rig.h"

namespace kvsteward::rpc {
namespace {

// A call of one sequence.
template <class Request, class Response, class Item, class Result>
Said CallWith(RawWorker& worker,
              grpc::Status (v1::Steward::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
              const Item& item, Result* result) {
  Request request;
  *request.mutable_lease() = worker.lease();
  *request.add_sequences() = item;
  Response response;
  const grpc::Status status = (worker.stub().*method)(Context().get(), request, &response);
  if (!status.ok()) return ToSaid(status);
  if (result != nullptr) *result = response.sequences(0);
  return {response.sequences(0).outcome().code(), response.sequences(0).outcome().message()};
}

}  // namespace

Said ToSaid(const grpc::Status& status) { return {static_cast<uint32_t>(status.error_code()), status.error_message()}; }

Said Create(RawWorker& worker, uint64_t sequence, uint32_t max_tokens, v1::CreateSequenceResponse* response) {
  v1::CreateSequenceRequest request;
  *request.mutable_lease() = worker.lease();
  request.set_sequence(sequence);
  request.set_max_tokens(max_tokens);
  v1::CreateSequenceResponse unread;
  return ToSaid(worker.stub().CreateSequence(Context().get(), request, response != nullptr ? response : &unread));
}

v1::ReserveSequence Room(uint64_t sequence, uint32_t total_tokens, uint64_t request_id) {
  v1::ReserveSequence item;
  item.set_sequence(sequence);
  item.set_total_tokens(total_tokens);
  item.set_request_id(request_id);
  return item;
}

Said Reserve(RawWorker& worker, const v1::ReserveSequence& item, v1::ReservedSequence* result) {
  return CallWith(worker, &v1::Steward::Stub::Reserve, item, result);
}

Said Truncate(RawWorker& worker, uint64_t sequence, uint32_t tokens, uint64_t request_id,
              v1::TruncateResponse* response) {
  v1::TruncateRequest request;
  *request.mutable_lease() = worker.lease();
  request.set_sequence(sequence);
  request.set_request_id(request_id);
  request.set_tokens(tokens);
  v1::TruncateResponse unread;
  return ToSaid(worker.stub().Truncate(Context().get(), request, response != nullptr ? response : &unread));
}

Said Observe(RawWorker& worker, const v1::ObserveSequence& item, v1::ObservedSequence* result) {
  return CallWith(worker, &v1::Steward::Stub::Observe, item, result);
}

Said Evict(RawWorker& worker, const v1::EvictSequence& item, v1::EvictedSequence* result) {
  return CallWith(worker, &v1::Steward::Stub::Evict, item, result);
}

Said Release(RawWorker& worker, uint64_t sequence, uint64_t request_id, v1::ReleaseSequenceResponse* response) {
  v1::ReleaseSequenceRequest request;
  *request.mutable_lease() = worker.lease();
  request.set_sequence(sequence);
  request.set_request_id(request_id);
  v1::ReleaseSequenceResponse unread;
  return ToSaid(worker.stub().ReleaseSequence(Context().get(), request, response != nullptr ? response : &unread));
}

}  // namespace kvsteward::rpc
