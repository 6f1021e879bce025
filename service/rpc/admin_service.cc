#include "service/rpc/admin_service.h"

#include <utility>
#include <variant>

#include "service/rpc/decode.h"
#include "service/rpc/encode.h"
#include "service/rpc/unary_call.h"
#include "spdlog/spdlog.h"

namespace kvsteward::rpc {

AdminService::AdminService(steward::Steward& steward, telemetry::Metrics& metrics, telemetry::Identity identity,
                           std::function<void()> drain)
    : steward_(steward), metrics_(metrics), identity_(std::move(identity)), drain_(std::move(drain)) {}

grpc::ServerUnaryReactor* AdminService::GetStatus(grpc::CallbackServerContext*, const v1::GetStatusRequest*,
                                                  v1::GetStatusResponse* response) {
  return UnaryCall::Ask(steward_, metrics_, "GetStatus", core::StatusAsked{},
                        [this, response](const core::ReplyBody& body) {
                          response->set_version(identity_.version);
                          response->set_backend(identity_.backend);
                          response->set_export_method(identity_.export_method);
                          Encode(std::get<core::StatusReply>(body), response);
                        });
}

grpc::ServerUnaryReactor* AdminService::ListTenants(grpc::CallbackServerContext*, const v1::ListTenantsRequest*,
                                                    v1::ListTenantsResponse* response) {
  return UnaryCall::Ask(
      steward_, metrics_, "ListTenants", core::StatusAsked{},
      [response](const core::ReplyBody& body) { Encode(std::get<core::StatusReply>(body), response); });
}

grpc::ServerUnaryReactor* AdminService::SetTenant(grpc::CallbackServerContext* context,
                                                  const v1::SetTenantRequest* request, v1::SetTenantResponse*) {
  absl::StatusOr<core::SetTenantAsked> asked = Decode(*request);
  if (!asked.ok()) return UnaryCall::Refuse(metrics_, "SetTenant", context, asked.status());
  return UnaryCall::Ask(
      steward_, metrics_, "SetTenant", *std::move(asked),
      [tenant = request->tenant()](const core::ReplyBody&) { spdlog::info("event=tenant_set tenant={}", tenant); });
}

grpc::ServerUnaryReactor* AdminService::Drain(grpc::CallbackServerContext* context, const v1::DrainRequest*,
                                              v1::DrainResponse*) {
  drain_();
  metrics_.CountCall("Drain", grpc::StatusCode::OK, 0);
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

}  // namespace kvsteward::rpc
