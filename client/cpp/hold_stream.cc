#include "client/cpp/hold_stream.h"

#include <chrono>
#include <utility>

#include "client/cpp/status.h"

namespace kvsteward {

HoldStream::HoldStream(v1::Steward::Stub& stub, const v1::Lease& lease, std::function<void()> on_draining,
                       std::function<void(const absl::Status&)> on_end)
    : on_draining_(std::move(on_draining)), on_end_(std::move(on_end)) {
  *request_.mutable_lease() = lease;
  stub.async()->Hold(&context_, &request_, this);
  StartRead(&response_);
  StartCall();
}

HoldStream::~HoldStream() {
  context_.TryCancel();
  MutexLock lock(mutex_);
  while (!done_) changed_.Wait(mutex_);
}

absl::Status HoldStream::AwaitLive(Deadline deadline) {
  MutexLock lock(mutex_);
  while (!live_) {
    if (done_) return end_;
    if (std::chrono::steady_clock::now() >= deadline) {
      return absl::DeadlineExceededError("the sidecar did not confirm the lease's self-test in time");
    }
    changed_.WaitUntil(mutex_, deadline);
  }
  return absl::OkStatus();
}

void HoldStream::OnReadDone(bool ok) {
  if (!ok) return;  // OnDone follows
  if (response_.notice() == v1::HoldResponse::NOTICE_LIVE) {
    MutexLock lock(mutex_);
    live_ = true;
    changed_.NotifyAll();
  } else if (response_.notice() == v1::HoldResponse::NOTICE_DRAINING && on_draining_) {
    on_draining_();
  }
  StartRead(&response_);
}

void HoldStream::OnDone(const grpc::Status& status) {
  absl::Status end = ToStatus(status);
  if (end.ok()) end = absl::UnavailableError("the sidecar ended the lease's Hold stream");
  on_end_(end);
  MutexLock lock(mutex_);
  end_ = std::move(end);
  done_ = true;
  changed_.NotifyAll();
}

}  // namespace kvsteward
