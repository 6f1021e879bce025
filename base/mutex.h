// std::mutex with clang's thread-safety annotations. (ThreadSanitizer reports correct uses of Debian's absl::Mutex as
// races, so ours is the standard one.) Thread-safe.
#pragma once

#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#define KVS_ATTRIBUTE(x) __attribute__((x))
#else
#define KVS_ATTRIBUTE(x)
#endif
#define KVS_CAPABILITY(x) KVS_ATTRIBUTE(capability(x))
#define KVS_SCOPED_CAPABILITY KVS_ATTRIBUTE(scoped_lockable)
#define KVS_GUARDED_BY(x) KVS_ATTRIBUTE(guarded_by(x))
#define KVS_REQUIRES(...) KVS_ATTRIBUTE(requires_capability(__VA_ARGS__))
#define KVS_EXCLUDES(...) KVS_ATTRIBUTE(locks_excluded(__VA_ARGS__))
#define KVS_ACQUIRE(...) KVS_ATTRIBUTE(acquire_capability(__VA_ARGS__))
#define KVS_RELEASE(...) KVS_ATTRIBUTE(release_capability(__VA_ARGS__))

namespace kvsteward {

class KVS_CAPABILITY("mutex") Mutex {
 public:
  void lock() KVS_ACQUIRE() { mutex_.lock(); }
  void unlock() KVS_RELEASE() { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

class KVS_SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) KVS_ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
  ~MutexLock() KVS_RELEASE() { mutex_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

// Waits on a Mutex that the caller holds. Wait in a loop on the condition: wake-ups may be spurious.
class CondVar {
 public:
  void Wait(Mutex& mutex) KVS_REQUIRES(mutex) { condition_.wait(mutex); }
  template <class Clock, class Duration>
  void WaitUntil(Mutex& mutex, std::chrono::time_point<Clock, Duration> deadline) KVS_REQUIRES(mutex) {
    condition_.wait_until(mutex, deadline);
  }
  void NotifyOne() { condition_.notify_one(); }
  void NotifyAll() { condition_.notify_all(); }

 private:
  std::condition_variable_any condition_;
};

}  // namespace kvsteward
