#include "service/rpc/worker_service.h"

#include <utility>
#include <variant>

#include "service/memory/lease_spec.h"
#include "service/rpc/decode.h"
#include "service/rpc/hold_stream.h"
#include "service/rpc/secret.h"
#include "service/rpc/unary_call.h"
#include "spdlog/spdlog.h"

namespace kvsteward::rpc {
namespace {

// A Hold that is refused before anybody heard of it.
class RefusedHold final : public grpc::ServerWriteReactor<v1::HoldResponse> {
 public:
  explicit RefusedHold(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

grpc::ServerUnaryReactor* Refuse(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToStatus(status));
  return reactor;
}

// Asks core what was decoded; its reply of type R is encoded as it is.
template <class R, class Asked, class Response>
grpc::ServerUnaryReactor* AskFor(grpc::CallbackServerContext* context, steward::Steward& steward,
                                 absl::StatusOr<Asked> asked, Response* response) {
  if (!asked.ok()) return Refuse(context, asked.status());
  return UnaryCall::Ask(steward, *std::move(asked),
                        [response](const core::ReplyBody& body) { Encode(std::get<R>(body), response); });
}

}  // namespace

WorkerService::WorkerService(steward::Steward& steward, engine::Policy default_policy, Identity identity)
    : steward_(steward), default_policy_(std::move(default_policy)), identity_(std::move(identity)) {}

grpc::ServerUnaryReactor* WorkerService::Attach(grpc::CallbackServerContext* context, const v1::AttachRequest* request,
                                                v1::AttachResponse* response) {
  absl::StatusOr<core::AttachAsked> asked = Decode(*request);
  if (!asked.ok()) return Refuse(context, asked.status());
  asked->new_key = NewSecret();
  auto encode = [this, response, spec = asked->spec, statistics = asked->statistics_bytes,
                 plans = asked->plan_bytes](const core::ReplyBody& body) {
    const auto& reply = std::get<core::AttachReply>(body);
    response->mutable_lease()->set_key(reply.key.data(), reply.key.size());
    response->mutable_lease()->set_epoch(reply.epoch);
    response->set_lease_name(LeaseName(reply.lease));
    response->set_backend(identity_.backend);
    response->set_export_method(identity_.export_method);
    response->set_block_bytes(spec->geometry.block_bytes());
    response->set_blocks_per_extent(reply.blocks_per_extent);
    response->set_extent_bytes(reply.extent_bytes);
    response->set_statistics_bytes(statistics);
    response->set_window_slot_bytes(spec->window_slot_bytes);
    response->set_plan_bytes(plans);
    spdlog::info("event=attached lease={} backend={} export_method={}", LeaseName(reply.lease), identity_.backend,
                 identity_.export_method);
  };
  return UnaryCall::Ask(steward_, *std::move(asked), std::move(encode));
}

grpc::ServerWriteReactor<v1::HoldResponse>* WorkerService::Hold(grpc::CallbackServerContext*,
                                                                const v1::HoldRequest* request) {
  absl::StatusOr<core::HoldOpened> opened = Decode(*request);
  if (!opened.ok()) return new RefusedHold(ToStatus(opened.status()));
  return HoldStream::Open(steward_, *std::move(opened));
}

grpc::ServerUnaryReactor* WorkerService::CreateSequence(grpc::CallbackServerContext* context,
                                                        const v1::CreateSequenceRequest* request,
                                                        v1::CreateSequenceResponse* response) {
  return AskFor<core::CreateSequenceReply>(context, steward_, Decode(*request), response);
}

grpc::ServerUnaryReactor* WorkerService::Reserve(grpc::CallbackServerContext* context,
                                                 const v1::ReserveRequest* request, v1::ReserveResponse* response) {
  return AskFor<core::ReserveReply>(context, steward_, Decode(*request), response);
}

grpc::ServerUnaryReactor* WorkerService::Truncate(grpc::CallbackServerContext* context,
                                                  const v1::TruncateRequest* request, v1::TruncateResponse* response) {
  return AskFor<core::TruncateReply>(context, steward_, Decode(*request), response);
}

grpc::ServerUnaryReactor* WorkerService::Evict(grpc::CallbackServerContext* context, const v1::EvictRequest* request,
                                               v1::EvictResponse* response) {
  return AskFor<core::EvictReply>(context, steward_, Decode(*request, default_policy_), response);
}

grpc::ServerUnaryReactor* WorkerService::ReleaseSequence(grpc::CallbackServerContext* context,
                                                         const v1::ReleaseSequenceRequest* request,
                                                         v1::ReleaseSequenceResponse* response) {
  return AskFor<core::ReleaseSequenceReply>(context, steward_, Decode(*request), response);
}

}  // namespace kvsteward::rpc
