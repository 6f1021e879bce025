// The callbacks of calls that wait for their reply. Thread-safe; Reply and Notify come from one thread, the loop's.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <thread>

#include "base/mutex.h"
#include "service/core/effects.h"
#include "service/steward/steward.h"

namespace kvsteward::steward {

class CallRegistry {
 public:
  // After ReplyToAll the call is answered by that outcome at once, on this thread.
  core::CallId Add(Steward::OnReply on_reply, Steward::OnNotice on_notice);

  // Forgets the call; false if it has been answered or forgotten before. Once this returns, its callbacks do not run
  // and never will, unless this was called from within one of them.
  bool Cancel(core::CallId call);

  // Runs the call's callback, if the call is still there. Reply forgets the call first.
  void Reply(core::CallId call, const core::Outcome& outcome, const core::ReplyBody& body);
  void Notify(core::CallId call, core::NoticeKind notice);
  // Replies to every call there is and will be.
  void ReplyToAll(const core::Outcome& outcome);

 private:
  struct Call {
    Steward::OnReply on_reply;
    Steward::OnNotice on_notice;
  };
  // Marks `call` as running, so that Cancel can wait, and unmarks it. The loop's thread.
  void Begin(core::CallId call) KVS_REQUIRES(mutex_);
  void End() KVS_EXCLUDES(mutex_);

  Mutex mutex_;
  CondVar ended_;
  core::CallId last_ KVS_GUARDED_BY(mutex_) = 0;
  std::optional<core::Outcome> closed_ KVS_GUARDED_BY(mutex_);  // what ReplyToAll said
  std::map<core::CallId, std::shared_ptr<Call>> calls_ KVS_GUARDED_BY(mutex_);
  core::CallId running_ KVS_GUARDED_BY(mutex_) = 0;  // whose callback runs; 0: none
  std::thread::id runner_ KVS_GUARDED_BY(mutex_);    // on which thread
};

}  // namespace kvsteward::steward
