// The service of workers: decodes, posts one event, encodes the reply. No state. Thread-safe.
#pragma once

#include "absl/status/statusor.h"
#include "kvsteward/v1/steward.grpc.pb.h"
#include "service/steward/steward.h"
#include "service/telemetry/metrics.h"

namespace kvsteward::rpc {

class WorkerService final : public v1::Steward::CallbackService {
 public:
  // Steward and metrics must outlive the service's calls.
  WorkerService(steward::Steward& steward, telemetry::Metrics& metrics, telemetry::Identity identity);

  grpc::ServerUnaryReactor* Attach(grpc::CallbackServerContext* context, const v1::AttachRequest* request,
                                   v1::AttachResponse* response) override;
  grpc::ServerWriteReactor<v1::HoldResponse>* Hold(grpc::CallbackServerContext* context,
                                                   const v1::HoldRequest* request) override;
  grpc::ServerUnaryReactor* CreateSequence(grpc::CallbackServerContext* context,
                                           const v1::CreateSequenceRequest* request,
                                           v1::CreateSequenceResponse* response) override;
  grpc::ServerUnaryReactor* Reserve(grpc::CallbackServerContext* context, const v1::ReserveRequest* request,
                                    v1::ReserveResponse* response) override;
  grpc::ServerUnaryReactor* Truncate(grpc::CallbackServerContext* context, const v1::TruncateRequest* request,
                                     v1::TruncateResponse* response) override;
  grpc::ServerUnaryReactor* Observe(grpc::CallbackServerContext* context, const v1::ObserveRequest* request,
                                    v1::ObserveResponse* response) override;
  grpc::ServerUnaryReactor* Evict(grpc::CallbackServerContext* context, const v1::EvictRequest* request,
                                  v1::EvictResponse* response) override;
  grpc::ServerUnaryReactor* ReleaseSequence(grpc::CallbackServerContext* context,
                                            const v1::ReleaseSequenceRequest* request,
                                            v1::ReleaseSequenceResponse* response) override;

 private:
  // Asks core what was decoded; its reply of type Reply is encoded as it is.
  template <class Reply, class Asked, class Response>
  grpc::ServerUnaryReactor* AskFor(const char* method, grpc::CallbackServerContext* context,
                                   absl::StatusOr<Asked> asked, Response* response);

  steward::Steward& steward_;
  telemetry::Metrics& metrics_;
  const telemetry::Identity identity_;
};

}  // namespace kvsteward::rpc
