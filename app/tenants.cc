#include <grpcpp/create_channel.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "app/bytes.h"
#include "app/commands.h"
#include "app/find_policy.h"
#include "app/print.h"
#include "kvsteward/v1/admin.grpc.pb.h"

namespace kvsteward::app {
namespace {

std::unique_ptr<v1::Admin::Stub> Connect(const std::string& address) {
  return v1::Admin::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
}

void SetDeadline(grpc::ClientContext& context) {
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
}

}  // namespace

int ListTenants(const ListTenantsOptions& options) {
  grpc::ClientContext context;
  SetDeadline(context);
  v1::ListTenantsResponse response;
  const grpc::Status status = Connect(options.address)->ListTenants(&context, v1::ListTenantsRequest(), &response);
  if (!status.ok()) {
    std::fprintf(stderr, "kvsteward: %s does not answer: %s\n", options.address.c_str(),
                 status.error_message().c_str());
    return 1;
  }
  if (options.json) {
    PrintJson(response);
    return 0;
  }
  std::vector<Row> rows = {{"tenant", "policy", "limit", "charged", "used"}};
  for (const v1::TenantStatus& tenant : response.tenants()) {
    rows.push_back({tenant.name(), tenant.policy(), RoughBytes(tenant.hard_limit_bytes()),
                    RoughBytes(tenant.charged_bytes()), RoughBytes(tenant.used_bytes())});
  }
  PrintTable(rows);
  return 0;
}

int SetTenant(const SetTenantOptions& options) {
  v1::SetTenantRequest request;
  request.set_tenant(options.tenant);
  request.set_policy("");  // the configured one
  if (!options.policy.empty()) {
    const absl::StatusOr<engine::Policy> policy = FindPolicy(options.policy);
    if (!policy.ok()) {
      std::fprintf(stderr, "kvsteward: %s\n", std::string(policy.status().message()).c_str());
      return 2;
    }
    request.set_policy(engine::PolicyToYaml(*policy));
  }
  grpc::ClientContext context;
  SetDeadline(context);
  v1::SetTenantResponse response;
  const grpc::Status status = Connect(options.address)->SetTenant(&context, request, &response);
  if (status.ok()) return 0;
  const bool wrong =
      status.error_code() == grpc::StatusCode::NOT_FOUND || status.error_code() == grpc::StatusCode::INVALID_ARGUMENT;
  std::fprintf(stderr, "kvsteward: %s%s\n", wrong ? "" : (options.address + " does not answer: ").c_str(),
               status.error_message().c_str());
  return wrong ? 2 : 1;
}

}  // namespace kvsteward::app
