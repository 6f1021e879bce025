#include "service/rpc/hold_stream.h"

#include <utility>

#include "service/rpc/encode.h"

namespace kvsteward::rpc {
namespace {

v1::HoldResponse Response(core::NoticeKind notice) {
  v1::HoldResponse response;
  response.set_notice(notice == core::NoticeKind::kLive ? v1::HoldResponse::NOTICE_LIVE
                                                        : v1::HoldResponse::NOTICE_DRAINING);
  return response;
}

}  // namespace

grpc::ServerWriteReactor<v1::HoldResponse>* HoldStream::Open(steward::Steward& steward, telemetry::Metrics& metrics,
                                                             core::HoldOpened event) {
  auto stream = std::make_shared<HoldStream>(steward, metrics);
  stream->self_ = stream;
  stream->id_ = steward.NewCall(
      [stream](const core::Outcome& outcome, const core::ReplyBody&) { stream->End(ToStatus(outcome)); },
      [stream](core::NoticeKind notice) { stream->Notice(notice); });
  event.call = stream->id_;
  steward.Post(event);
  return stream.get();
}

void HoldStream::Notice(core::NoticeKind notice) {
  v1::HoldResponse response = Response(notice);
  {
    MutexLock lock(mutex_);
    if (ended_) return;
    // Saying the same twice says no more, so that the queue is never longer than there are notices, plus the one in
    // flight.
    for (size_t i = writing_ ? 1 : 0; i < queue_.size(); ++i) {
      if (queue_[i].notice() == response.notice()) return;
    }
    queue_.push_back(std::move(response));
  }
  Advance();
}

void HoldStream::End(const grpc::Status& status) {
  {
    MutexLock lock(mutex_);
    if (!ended_) status_ = status;
    ended_ = true;
  }
  Advance();
}

void HoldStream::OnWriteDone(bool ok) {
  {
    MutexLock lock(mutex_);
    writing_ = false;
    queue_.pop_front();
    if (!ok) queue_.clear();
  }
  if (!ok) return End(grpc::Status(grpc::StatusCode::CANCELLED, "the client went away"));
  Advance();
}

void HoldStream::OnCancel() {
  steward_.CancelCall(id_);
  {
    // What is in flight fails soon and then ends the stream.
    MutexLock lock(mutex_);
    queue_.resize(writing_ ? 1 : 0);
  }
  End(grpc::Status(grpc::StatusCode::CANCELLED, "the call was cancelled"));
}

void HoldStream::Advance() {
  const v1::HoldResponse* write = nullptr;
  grpc::Status status;
  {
    MutexLock lock(mutex_);
    if (writing_ || finished_) return;
    if (!queue_.empty()) {
      writing_ = true;
      write = &queue_.front();  // deque: pushing behind it does not move it
    } else if (ended_) {
      finished_ = true;
      status = status_;
    } else {
      return;
    }
  }
  if (write != nullptr) {
    StartWrite(write);
  } else {
    timer_.Count(status);
    Finish(status);
  }
}

}  // namespace kvsteward::rpc
