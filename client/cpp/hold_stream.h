// The Hold stream of a lease: the sidecar's notices, read on gRPC's threads. Thread-safe.
#pragma once

#include <functional>

#include "absl/status/status.h"
#include "base/mutex.h"
#include "client/cpp/connection.h"
#include "grpcpp/client_context.h"
#include "grpcpp/support/client_callback.h"
#include "kvsteward/v1/steward.grpc.pb.h"

namespace kvsteward {

class HoldStream final : public grpc::ClientReadReactor<v1::HoldResponse> {
 public:
  // Both callbacks run on a thread of gRPC's and must not block; on_end runs once, when the stream has ended.
  HoldStream(v1::Steward::Stub& stub, const v1::Lease& lease, std::function<void()> on_draining,
             std::function<void(const absl::Status&)> on_end);
  // Ends the stream and waits until no callback runs.
  ~HoldStream() override;

  // Until the sidecar says that the lease works; else why it does not.
  absl::Status AwaitLive(Deadline deadline);

  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

 private:
  const std::function<void()> on_draining_;
  const std::function<void(const absl::Status&)> on_end_;
  v1::HoldRequest request_;
  v1::HoldResponse response_;
  grpc::ClientContext context_;

  Mutex mutex_;
  CondVar changed_;
  bool live_ KVS_GUARDED_BY(mutex_) = false;
  bool done_ KVS_GUARDED_BY(mutex_) = false;
  absl::Status end_ KVS_GUARDED_BY(mutex_);
};

}  // namespace kvsteward
