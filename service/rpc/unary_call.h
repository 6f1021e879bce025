// One unary RPC that waits for core's reply. It finishes exactly once: with the reply on the steward's thread, or on
// cancellation on one of gRPC's. gRPC owns the reactor until OnDone; the steward's callback holds it too, because a
// reply may be on its way while the call is being cancelled.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <utility>

#include "grpcpp/support/server_callback.h"
#include "service/core/events.h"
#include "service/rpc/encode.h"
#include "service/steward/steward.h"

namespace kvsteward::rpc {

class UnaryCall final : public grpc::ServerUnaryReactor {
 public:
  // Fills the response; called at most once, before Finish.
  using EncodeReply = std::function<void(const core::ReplyBody& body)>;

  // Posts `event` with a new call's id.
  template <class Event>
  static grpc::ServerUnaryReactor* Ask(steward::Steward& steward, Event event, EncodeReply encode) {
    auto call = std::make_shared<UnaryCall>(steward);
    call->self_ = call;
    call->id_ =
        steward.NewCall([call, encode = std::move(encode)](const core::Outcome& outcome, const core::ReplyBody& body) {
          call->Answer(outcome, body, encode);
        });
    event.call = call->id_;
    steward.Post(std::move(event));
    return call.get();
  }

  explicit UnaryCall(steward::Steward& steward) : steward_(steward) {}

  void OnCancel() override {
    steward_.CancelCall(id_);
    if (!finished_.exchange(true)) Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the call was cancelled"));
  }
  void OnDone() override { self_.reset(); }

 private:
  void Answer(const core::Outcome& outcome, const core::ReplyBody& body, const EncodeReply& encode) {
    if (finished_.exchange(true)) return;
    if (outcome.ok()) encode(body);
    Finish(ToStatus(outcome));
  }

  steward::Steward& steward_;
  core::CallId id_ = 0;
  std::atomic<bool> finished_{false};
  std::shared_ptr<UnaryCall> self_;  // until OnDone
};

}  // namespace kvsteward::rpc
