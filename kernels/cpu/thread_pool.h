// A fixed set of threads that split a loop, the caller's thread among them. Which thread runs which task is not fixed,
// so a task writes only what is its own, and results do not depend on the number of threads. One caller at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <thread>
#include <vector>

#include "base/mutex.h"

namespace kvsteward::engine::cpu {

class ThreadPool {
 public:
  using Body = std::function<void(int64_t task, int worker)>;

  // Starts `threads` - 1 threads. REQUIRES: threads >= 1.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(helpers_.size()) + 1; }

  // Calls body(task, worker) once for every task in [0, tasks) and returns when all have returned. `worker` is in
  // [0, threads()) and names the calling thread's scratch. If a body throws (there is no memory), tasks that nobody has
  // begun are left out, and the first exception is thrown once all threads are out of their bodies.
  // REQUIRES: not called from a body.
  void ParallelFor(int64_t tasks, const Body& body);

 private:
  void HelperMain(int worker);
  void TakeTasks(const Body& body, int64_t tasks, int worker) KVS_EXCLUDES(mutex_);

  Mutex mutex_;
  CondVar start_;
  CondVar done_;
  // One loop is a round; a helper joins each round exactly once, and the round ends when `busy_` is 0.
  uint64_t round_ KVS_GUARDED_BY(mutex_) = 0;
  const Body* body_ KVS_GUARDED_BY(mutex_) = nullptr;
  int64_t tasks_ KVS_GUARDED_BY(mutex_) = 0;
  int busy_ KVS_GUARDED_BY(mutex_) = 0;
  std::exception_ptr thrown_ KVS_GUARDED_BY(mutex_);  // of this round, the first
  bool stop_ KVS_GUARDED_BY(mutex_) = false;
  std::atomic<int64_t> next_{0};
  std::vector<std::thread> helpers_;
};

}  // namespace kvsteward::engine::cpu
