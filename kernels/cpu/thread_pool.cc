#include "kernels/cpu/thread_pool.h"

#include <utility>

namespace kvsteward::engine::cpu {

ThreadPool::ThreadPool(int threads) {
  helpers_.reserve(static_cast<size_t>(threads - 1));
  for (int worker = 1; worker < threads; ++worker) helpers_.emplace_back([this, worker] { HelperMain(worker); });
}

ThreadPool::~ThreadPool() {
  {
    MutexLock lock(mutex_);
    stop_ = true;
    start_.NotifyAll();
  }
  for (std::thread& helper : helpers_) helper.join();
}

void ThreadPool::ParallelFor(int64_t tasks, const Body& body) {
  if (tasks <= 1 || helpers_.empty()) {  // nothing to share: spare the wake-up
    for (int64_t task = 0; task < tasks; ++task) body(task, 0);
    return;
  }
  {
    MutexLock lock(mutex_);
    body_ = &body;
    tasks_ = tasks;
    busy_ = static_cast<int>(helpers_.size());
    next_.store(0, std::memory_order_relaxed);
    ++round_;
    start_.NotifyAll();
  }
  TakeTasks(body, tasks, 0);
  std::exception_ptr thrown;
  {
    MutexLock lock(mutex_);
    while (busy_ > 0) done_.Wait(mutex_);
    thrown = std::exchange(thrown_, nullptr);
  }
  if (thrown) std::rethrow_exception(thrown);
}

void ThreadPool::HelperMain(int worker) {
  uint64_t seen = 0;
  while (true) {
    const Body* body = nullptr;
    int64_t tasks = 0;
    {
      MutexLock lock(mutex_);
      while (!stop_ && round_ == seen) start_.Wait(mutex_);
      if (stop_) return;
      seen = round_;
      body = body_;
      tasks = tasks_;
    }
    TakeTasks(*body, tasks, worker);
    MutexLock lock(mutex_);
    if (--busy_ == 0) done_.NotifyOne();
  }
}

void ThreadPool::TakeTasks(const Body& body, int64_t tasks, int worker) {
  try {
    for (int64_t task = next_.fetch_add(1, std::memory_order_relaxed); task < tasks;
         task = next_.fetch_add(1, std::memory_order_relaxed)) {
      body(task, worker);
    }
  } catch (...) {
    next_.store(tasks, std::memory_order_relaxed);
    MutexLock lock(mutex_);
    if (!thrown_) thrown_ = std::current_exception();
  }
}

}  // namespace kvsteward::engine::cpu
