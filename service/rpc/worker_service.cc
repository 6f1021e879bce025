#include "service/rpc/worker_service.h"

#include <utility>
#include <variant>
#include <vector>

#include "service/device/evict_spec.h"
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

}  // namespace

WorkerService::WorkerService(steward::Steward& steward, telemetry::Metrics& metrics, telemetry::Identity identity)
    : steward_(steward), metrics_(metrics), identity_(std::move(identity)) {}

template <class Reply, class Asked, class Response>
grpc::ServerUnaryReactor* WorkerService::AskFor(const char* method, grpc::CallbackServerContext* context,
                                                absl::StatusOr<Asked> asked, Response* response) {
  if (!asked.ok()) return UnaryCall::Refuse(metrics_, method, context, asked.status());
  return UnaryCall::Ask(steward_, metrics_, method, *std::move(asked),
                        [response](const core::ReplyBody& body) { Encode(std::get<Reply>(body), response); });
}

grpc::ServerUnaryReactor* WorkerService::Attach(grpc::CallbackServerContext* context, const v1::AttachRequest* request,
                                                v1::AttachResponse* response) {
  absl::StatusOr<core::AttachAsked> asked = Decode(*request);
  if (!asked.ok()) return UnaryCall::Refuse(metrics_, "Attach", context, asked.status());
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
    response->set_inputs_offset(spec->inputs_offset());
    response->set_device_uuid(identity_.device_uuid);
    spdlog::info("event=attached lease={} backend={} export_method={}", LeaseName(reply.lease), identity_.backend,
                 identity_.export_method);
  };
  return UnaryCall::Ask(steward_, metrics_, "Attach", *std::move(asked), std::move(encode));
}

grpc::ServerWriteReactor<v1::HoldResponse>* WorkerService::Hold(grpc::CallbackServerContext*,
                                                                const v1::HoldRequest* request) {
  absl::StatusOr<core::HoldOpened> opened = Decode(*request);
  if (opened.ok()) return HoldStream::Open(steward_, metrics_, *std::move(opened));
  const grpc::Status refusal = ToStatus(opened.status());
  metrics_.CountCall("Hold", refusal.error_code(), 0);
  return new RefusedHold(refusal);
}

grpc::ServerUnaryReactor* WorkerService::CreateSequence(grpc::CallbackServerContext* context,
                                                        const v1::CreateSequenceRequest* request,
                                                        v1::CreateSequenceResponse* response) {
  return AskFor<core::CreateSequenceReply>("CreateSequence", context, Decode(*request), response);
}

grpc::ServerUnaryReactor* WorkerService::Reserve(grpc::CallbackServerContext* context,
                                                 const v1::ReserveRequest* request, v1::ReserveResponse* response) {
  return AskFor<core::ReserveReply>("Reserve", context, Decode(*request), response);
}

grpc::ServerUnaryReactor* WorkerService::Truncate(grpc::CallbackServerContext* context,
                                                  const v1::TruncateRequest* request, v1::TruncateResponse* response) {
  return AskFor<core::TruncateReply>("Truncate", context, Decode(*request), response);
}

grpc::ServerUnaryReactor* WorkerService::Observe(grpc::CallbackServerContext* context,
                                                 const v1::ObserveRequest* request, v1::ObserveResponse* response) {
  absl::StatusOr<core::ObserveAsked> asked = Decode(*request);
  if (!asked.ok()) return UnaryCall::Refuse(metrics_, "Observe", context, asked.status());
  std::vector<int32_t> rows;  // of each sequence
  for (const core::ObserveItem& item : asked->items) rows.push_back(item.spec->window_rows);
  auto encode = [this, response, rows = std::move(rows)](const core::ReplyBody& body) {
    const auto& reply = std::get<core::ObserveReply>(body);
    Encode(reply, response);
    for (size_t i = 0; i < rows.size(); ++i) metrics_.CountObservation(reply.tenant, rows[i], reply.results[i]);
  };
  return UnaryCall::Ask(steward_, metrics_, "Observe", *std::move(asked), std::move(encode));
}

grpc::ServerUnaryReactor* WorkerService::Evict(grpc::CallbackServerContext* context, const v1::EvictRequest* request,
                                               v1::EvictResponse* response) {
  absl::StatusOr<core::EvictAsked> asked = Decode(*request);
  if (!asked.ok()) return UnaryCall::Refuse(metrics_, "Evict", context, asked.status());
  std::vector<bool> counted;  // of each sequence: not if only a plan was asked for
  for (const core::EvictItem& item : asked->items) counted.push_back(!item.plan_only);
  auto encode = [this, response, counted = std::move(counted)](const core::ReplyBody& body) {
    const auto& reply = std::get<core::EvictReply>(body);
    Encode(reply, response);
    for (size_t i = 0; i < counted.size(); ++i) {
      if (counted[i]) metrics_.CountEviction(reply.tenant, reply.results[i]);
    }
  };
  return UnaryCall::Ask(steward_, metrics_, "Evict", *std::move(asked), std::move(encode));
}

grpc::ServerUnaryReactor* WorkerService::ReleaseSequence(grpc::CallbackServerContext* context,
                                                         const v1::ReleaseSequenceRequest* request,
                                                         v1::ReleaseSequenceResponse* response) {
  return AskFor<core::ReleaseSequenceReply>("ReleaseSequence", context, Decode(*request), response);
}

}  // namespace kvsteward::rpc
