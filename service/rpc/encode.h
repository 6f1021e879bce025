// Replies on their way out. Stateless.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "grpcpp/support/status.h"
#include "kvsteward/v1/admin.pb.h"
#include "kvsteward/v1/steward.pb.h"
#include "service/core/effects.h"

namespace kvsteward::rpc {

// The public name of a lease, for logs and metrics.
std::string LeaseName(core::LeaseId lease);

// Texts that quote a request are cut to what fits a trailer; a shortage of memory travels as the details.
grpc::Status ToStatus(const core::Outcome& outcome);
grpc::Status ToStatus(const absl::Status& status);

void Encode(const core::CreateSequenceReply& reply, v1::CreateSequenceResponse* response);
void Encode(const core::ReserveReply& reply, v1::ReserveResponse* response);
void Encode(const core::TruncateReply& reply, v1::TruncateResponse* response);
void Encode(const core::ObserveReply& reply, v1::ObserveResponse* response);
void Encode(const core::EvictReply& reply, v1::EvictResponse* response);
void Encode(const core::ReleaseSequenceReply& reply, v1::ReleaseSequenceResponse* response);
void Encode(const core::StatusReply& reply, v1::GetStatusResponse* response);
void Encode(const core::StatusReply& reply, v1::ListTenantsResponse* response);

}  // namespace kvsteward::rpc
