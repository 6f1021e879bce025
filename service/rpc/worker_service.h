// The service of workers: decodes, posts one event, encodes the reply. No state. Thread-safe.
#pragma once

#include "kvsteward/engine/policy.h"
#include "kvsteward/v1/steward.grpc.pb.h"
#include "service/rpc/encode.h"
#include "service/steward/steward.h"

namespace kvsteward::rpc {

class WorkerService final : public v1::Steward::CallbackService {
 public:
  // The steward must outlive the service's calls. `default_policy` is that of an Evict that names none.
  WorkerService(steward::Steward& steward, engine::Policy default_policy, Identity identity);

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
  grpc::ServerUnaryReactor* Evict(grpc::CallbackServerContext* context, const v1::EvictRequest* request,
                                  v1::EvictResponse* response) override;
  grpc::ServerUnaryReactor* ReleaseSequence(grpc::CallbackServerContext* context,
                                            const v1::ReleaseSequenceRequest* request,
                                            v1::ReleaseSequenceResponse* response) override;

 private:
  steward::Steward& steward_;
  const engine::Policy default_policy_;
  const Identity identity_;
};

}  // namespace kvsteward::rpc
