// Where a test receives what other threads send. Thread-safe.
#pragma once

#include <functional>
#include <utility>
#include <variant>
#include <vector>

#include "base/mutex.h"
#include "service/core/events.h"

namespace kvsteward {

template <class Message>
class Inbox {
 public:
  void Put(Message message) {
    MutexLock lock(mutex_);
    messages_.push_back(std::move(message));
    changed_.NotifyAll();
  }
  // What calls Put.
  std::function<void(Message)> Putter() {
    return [this](Message message) { Put(std::move(message)); };
  }
  // Waits for `count` messages and takes all there are.
  std::vector<Message> Wait(size_t count) {
    MutexLock lock(mutex_);
    while (messages_.size() < count) changed_.Wait(mutex_);
    return std::exchange(messages_, {});
  }
  // Waits for a message, which must be the only one, and be of this type.
  template <class Type>
  Type WaitFor() {
    std::vector<Message> messages = Wait(1);
    return messages.size() == 1 ? std::get<Type>(std::move(messages[0])) : throw std::bad_variant_access();
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::vector<Message> messages_ KVS_GUARDED_BY(mutex_);
};

using EventInbox = Inbox<core::Event>;

// Closed until opened.
class Gate {
 public:
  void Open() {
    MutexLock lock(mutex_);
    open_ = true;
    changed_.NotifyAll();
  }
  void Wait() {
    MutexLock lock(mutex_);
    while (!open_) changed_.Wait(mutex_);
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool open_ KVS_GUARDED_BY(mutex_) = false;
};

}  // namespace kvsteward
