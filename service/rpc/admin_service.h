// The service of operators. No state. Thread-safe.
#pragma once

#include <functional>

#include "kvsteward/v1/admin.grpc.pb.h"
#include "service/steward/steward.h"
#include "service/telemetry/metrics.h"

namespace kvsteward::rpc {

class AdminService final : public v1::Admin::CallbackService {
 public:
  // Steward and metrics must outlive the service's calls. `drain` begins the drain if it has not begun; it must not
  // block.
  AdminService(steward::Steward& steward, telemetry::Metrics& metrics, telemetry::Identity identity,
               std::function<void()> drain);

  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context, const v1::GetStatusRequest* request,
                                      v1::GetStatusResponse* response) override;
  grpc::ServerUnaryReactor* ListTenants(grpc::CallbackServerContext* context, const v1::ListTenantsRequest* request,
                                        v1::ListTenantsResponse* response) override;
  grpc::ServerUnaryReactor* SetTenant(grpc::CallbackServerContext* context, const v1::SetTenantRequest* request,
                                      v1::SetTenantResponse* response) override;
  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context, const v1::DrainRequest* request,
                                  v1::DrainResponse* response) override;

 private:
  steward::Steward& steward_;
  telemetry::Metrics& metrics_;
  const telemetry::Identity identity_;
  const std::function<void()> drain_;
};

}  // namespace kvsteward::rpc
