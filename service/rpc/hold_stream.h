// One Hold stream: carries a lease's notices, one write in flight, the others queued. Ends with core's reply, on
// cancellation or when the server stops; owned like UnaryCall.
#pragma once

#include <deque>
#include <memory>

#include "base/mutex.h"
#include "grpcpp/support/server_callback.h"
#include "kvsteward/v1/steward.pb.h"
#include "service/core/effects.h"
#include "service/rpc/call_timer.h"
#include "service/steward/steward.h"

namespace kvsteward::rpc {

class HoldStream final : public grpc::ServerWriteReactor<v1::HoldResponse> {
 public:
  static grpc::ServerWriteReactor<v1::HoldResponse>* Open(steward::Steward& steward, telemetry::Metrics& metrics,
                                                          core::HoldOpened event);

  HoldStream(steward::Steward& steward, telemetry::Metrics& metrics) : steward_(steward), timer_(metrics, "Hold") {}

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override { self_.reset(); }

 private:
  void Notice(core::NoticeKind notice);
  void End(const grpc::Status& status);
  // Does what is next: a write, or the end once everything is written. Nothing of this may be touched after it but by
  // those who keep it alive.
  void Advance();

  steward::Steward& steward_;
  const CallTimer timer_;
  core::CallId id_ = 0;

  Mutex mutex_;
  std::deque<v1::HoldResponse> queue_ KVS_GUARDED_BY(mutex_);  // the first one is in flight if `writing_`
  bool writing_ KVS_GUARDED_BY(mutex_) = false;
  bool ended_ KVS_GUARDED_BY(mutex_) = false;  // `status_` is set
  bool finished_ KVS_GUARDED_BY(mutex_) = false;
  grpc::Status status_ KVS_GUARDED_BY(mutex_);

  std::shared_ptr<HoldStream> self_;  // until OnDone
};

}  // namespace kvsteward::rpc
