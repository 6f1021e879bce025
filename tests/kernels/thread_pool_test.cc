// Loops over threads: every task once, and what a body throws.
#include "kernels/cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <new>
#include <vector>

namespace kvsteward::engine::cpu {
namespace {

TEST(ThreadPool, RunsEveryTaskOnce) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (const int64_t tasks : {0, 1, 2, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(tasks));
      pool.ParallelFor(tasks, [&](int64_t task, int worker) {
        EXPECT_LT(worker, threads);
        ++runs[static_cast<size_t>(task)];
      });
      for (const auto& count : runs) EXPECT_EQ(count, 1);
    }
  }
}

// Whoever runs the task that throws: no body runs any more when the caller has the exception, and the next loop is
// whole.
TEST(ThreadPool, HandsOnWhatABodyThrows) {
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 200; ++round) {
      std::atomic<int> running = 0;
      const auto body = [&](int64_t task, int) {
        ++running;
        if (task % 7 == round % 7) {
          --running;
          throw std::bad_alloc();
        }
        --running;
      };
      EXPECT_THROW(pool.ParallelFor(40, body), std::bad_alloc);
      EXPECT_EQ(running, 0);
      std::atomic<int> done = 0;
      pool.ParallelFor(40, [&](int64_t, int) { ++done; });
      ASSERT_EQ(done, 40);
    }
  }
}

}  // namespace
}  // namespace kvsteward::engine::cpu
