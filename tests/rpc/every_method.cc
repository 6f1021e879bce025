#include "tests/rpc/every_method.h"

#include "tests/rpc/raw_worker.h"

namespace kvsteward::rpc {

std::vector<std::pair<std::string, Call>> EveryMethod(const v1::Lease& lease) {
  const auto unary = [lease](auto request, auto response, auto method) -> Call {
    *request.mutable_lease() = lease;
    return [=](v1::Steward::Stub& stub, grpc::ClientContext& context) {
      auto answer = response;
      return (stub.*method)(&context, request, &answer);
    };
  };
  v1::CreateSequenceRequest create;
  create.set_sequence(7);
  create.set_max_tokens(64);
  v1::ReserveRequest reserve;
  reserve.add_sequences()->set_sequence(7);
  reserve.mutable_sequences(0)->set_total_tokens(32);
  v1::TruncateRequest truncate;
  truncate.set_sequence(7);
  v1::EvictRequest evict;
  evict.add_sequences()->set_sequence(7);
  evict.mutable_sequences(0)->set_budget_tokens(64);
  v1::ObserveRequest observe;
  observe.add_sequences()->set_sequence(7);
  observe.mutable_sequences(0)->set_written_tokens(1);
  observe.mutable_sequences(0)->mutable_window()->set_rows(1);
  observe.mutable_sequences(0)->mutable_window()->set_dtype(v1::D_TYPE_F32);
  observe.mutable_sequences(0)->mutable_window()->set_slot(0);
  v1::ReleaseSequenceRequest release;
  release.set_sequence(7);
  return {{"Attach",
           [](v1::Steward::Stub& stub, grpc::ClientContext& context) {
             v1::AttachRequest request = RawWorker::SmallGeometry();
             request.set_ticket(std::string(16, 'x'));
             v1::AttachResponse response;
             return stub.Attach(&context, request, &response);
           }},
          {"Hold",
           [lease](v1::Steward::Stub& stub, grpc::ClientContext& context) {
             v1::HoldRequest request;
             *request.mutable_lease() = lease;
             const auto stream = stub.Hold(&context, request);
             v1::HoldResponse response;
             while (stream->Read(&response)) {
             }
             return stream->Finish();
           }},
          {"CreateSequence", unary(create, v1::CreateSequenceResponse(), &v1::Steward::Stub::CreateSequence)},
          {"Reserve", unary(reserve, v1::ReserveResponse(), &v1::Steward::Stub::Reserve)},
          {"Truncate", unary(truncate, v1::TruncateResponse(), &v1::Steward::Stub::Truncate)},
          {"Observe", unary(observe, v1::ObserveResponse(), &v1::Steward::Stub::Observe)},
          {"Evict", unary(evict, v1::EvictResponse(), &v1::Steward::Stub::Evict)},
          {"ReleaseSequence", unary(release, v1::ReleaseSequenceResponse(), &v1::Steward::Stub::ReleaseSequence)}};
}

}  // namespace kvsteward::rpc
