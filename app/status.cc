#include <grpcpp/create_channel.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "app/bytes.h"
#include "app/commands.h"
#include "app/print.h"
#include "kvsteward/v1/admin.grpc.pb.h"

namespace kvsteward::app {
namespace {

std::string StateName(v1::LeaseStatus::State state) {
  std::string name = v1::LeaseStatus::State_Name(state).substr(sizeof("STATE_") - 1);
  for (char& c : name) c = static_cast<char>(c - 'A' + 'a');
  return name;
}

void PrintText(const v1::GetStatusResponse& status) {
  std::printf("kvsteward %s, %s backend, memory shared by %s, epoch %llu, %s\n\n", status.version().c_str(),
              status.backend().c_str(), status.export_method().c_str(), static_cast<unsigned long long>(status.epoch()),
              status.draining() ? "draining" : "serving");
  const v1::Ledger& ledger = status.ledger();
  PrintTable({{"arena", "free", "used", "metadata", "reserved", "quarantined"},
              {RoughBytes(ledger.arena_bytes()), RoughBytes(ledger.free_bytes()), RoughBytes(ledger.used_bytes()),
               RoughBytes(ledger.metadata_bytes()), RoughBytes(ledger.reserved_bytes()),
               RoughBytes(ledger.quarantined_bytes())}});
  std::vector<Row> tenants = {{"tenant", "policy", "limit", "charged", "used"}};
  for (const v1::TenantStatus& tenant : status.tenants()) {
    tenants.push_back({tenant.name(), tenant.policy(), RoughBytes(tenant.hard_limit_bytes()),
                       RoughBytes(tenant.charged_bytes()), RoughBytes(tenant.used_bytes())});
  }
  PrintTable(tenants);
  std::vector<Row> leases = {{"lease", "tenant", "state", "extents", "charged", "used", "sequences", "evicting"}};
  for (const v1::LeaseStatus& lease : status.leases()) {
    leases.push_back({lease.name(), lease.tenant(), StateName(lease.state()), std::to_string(lease.extents()),
                      RoughBytes(lease.charged_bytes()), RoughBytes(lease.used_bytes()),
                      std::to_string(lease.sequences()), std::to_string(lease.running_evictions())});
  }
  PrintTable(leases);
}

}  // namespace

int Status(const StatusOptions& options) {
  const auto stub = v1::Admin::NewStub(grpc::CreateChannel(options.address, grpc::InsecureChannelCredentials()));
  for (;;) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
    v1::GetStatusResponse response;
    const grpc::Status status = stub->GetStatus(&context, v1::GetStatusRequest(), &response);
    if (!status.ok()) {
      std::fprintf(stderr, "kvsteward: %s does not answer: %s\n", options.address.c_str(),
                   status.error_message().c_str());
      return 1;
    }
    if (options.watch && !options.json && isatty(STDOUT_FILENO) != 0) std::fputs("\x1b[H\x1b[2J", stdout);
    options.json ? PrintJson(response) : PrintText(response);
    std::fflush(stdout);
    if (!options.watch) return 0;
    std::this_thread::sleep_for(std::chrono::seconds(1));
  }
}

}  // namespace kvsteward::app
