#include "service/steward/call_registry.h"

#include <utility>

namespace kvsteward::steward {

core::CallId CallRegistry::Add(Steward::OnReply on_reply, Steward::OnNotice on_notice) {
  auto call = std::make_shared<Call>(Call{std::move(on_reply), std::move(on_notice)});
  core::CallId id = 0;
  core::Outcome closed;
  {
    MutexLock lock(mutex_);
    id = ++last_;
    if (!closed_) {
      calls_[id] = std::move(call);
      return id;
    }
    closed = *closed_;
  }
  call->on_reply(closed, std::monostate());
  return id;
}

bool CallRegistry::Cancel(core::CallId call) {
  std::shared_ptr<Call> dropped;  // ends outside of the lock: callbacks may own anything
  MutexLock lock(mutex_);
  const auto found = calls_.find(call);
  if (found != calls_.end()) {
    dropped = std::move(found->second);
    calls_.erase(found);
  }
  while (running_ == call && runner_ != std::this_thread::get_id()) ended_.Wait(mutex_);
  return dropped != nullptr;
}

void CallRegistry::Reply(core::CallId call, const core::Outcome& outcome, const core::ReplyBody& body) {
  std::shared_ptr<Call> answered;
  {
    MutexLock lock(mutex_);
    const auto found = calls_.find(call);
    if (found == calls_.end()) return;
    answered = std::move(found->second);
    calls_.erase(found);
    Begin(call);
  }
  answered->on_reply(outcome, body);
  answered.reset();
  End();
}

void CallRegistry::Notify(core::CallId call, core::NoticeKind notice) {
  std::shared_ptr<Call> notified;
  {
    MutexLock lock(mutex_);
    const auto found = calls_.find(call);
    if (found == calls_.end() || !found->second->on_notice) return;
    notified = found->second;
    Begin(call);
  }
  notified->on_notice(notice);
  notified.reset();
  End();
}

void CallRegistry::ReplyToAll(const core::Outcome& outcome) {
  while (true) {
    core::CallId call = 0;
    {
      MutexLock lock(mutex_);
      closed_ = outcome;
      if (calls_.empty()) return;
      call = calls_.begin()->first;
    }
    Reply(call, outcome, std::monostate());
  }
}

void CallRegistry::Begin(core::CallId call) {
  running_ = call;
  runner_ = std::this_thread::get_id();
}

void CallRegistry::End() {
  {
    MutexLock lock(mutex_);
    running_ = 0;
  }
  ended_.NotifyAll();
}

}  // namespace kvsteward::steward
