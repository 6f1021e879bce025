// One unary RPC that waits for core's reply. It finishes exactly once: with the reply on the steward's thread, or on
// cancellation on one of gRPC's. gRPC owns the reactor until OnDone; the steward's callback holds it too, because a
// reply may be on its way while the call is being cancelled.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "grpcpp/support/server_callback.h"
#include "service/core/events.h"
#include "service/rpc/call_timer.h"
#include "service/rpc/encode.h"
#include "service/steward/steward.h"

namespace kvsteward::rpc {

class UnaryCall final : public grpc::ServerUnaryReactor {
 public:
  // Fills the response; called at most once, before Finish.
  using EncodeReply = std::function<void(const core::ReplyBody& body)>;

  // Posts `event` with a new call's id. The call is counted under `method`.
  template <class Event>
  static grpc::ServerUnaryReactor* Ask(steward::Steward& steward, telemetry::Metrics& metrics, const char* method,
                                       Event event, EncodeReply encode) {
    auto call = std::make_shared<UnaryCall>(steward, metrics, method);
    call->self_ = call;
    call->id_ =
        steward.NewCall([call, encode = std::move(encode)](const core::Outcome& outcome, const core::ReplyBody& body) {
          call->Answer(outcome, body, encode);
        });
    event.call = call->id_;
    steward.Post(std::move(event));
    return call.get();
  }

  // Answers a call that nobody need hear of.
  static grpc::ServerUnaryReactor* Refuse(telemetry::Metrics& metrics, const char* method,
                                          grpc::CallbackServerContext* context, const absl::Status& status) {
    const grpc::Status answer = ToStatus(status);
    metrics.CountCall(method, answer.error_code(), 0);
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(answer);
    return reactor;
  }

  UnaryCall(steward::Steward& steward, telemetry::Metrics& metrics, const char* method)
      : steward_(steward), timer_(metrics, method) {}

  void OnCancel() override {
    steward_.CancelCall(id_);
    if (!finished_.exchange(true)) End(grpc::Status(grpc::StatusCode::CANCELLED, "the call was cancelled"));
  }
  void OnDone() override { self_.reset(); }

 private:
  void Answer(const core::Outcome& outcome, const core::ReplyBody& body, const EncodeReply& encode) {
    if (finished_.exchange(true)) return;
    if (outcome.ok()) encode(body);
    End(ToStatus(outcome));
  }
  void End(const grpc::Status& status) {
    timer_.Count(status);
    Finish(status);
  }

  steward::Steward& steward_;
  const CallTimer timer_;
  core::CallId id_ = 0;
  std::atomic<bool> finished_{false};
  std::shared_ptr<UnaryCall> self_;  // until OnDone
};

}  // namespace kvsteward::rpc
