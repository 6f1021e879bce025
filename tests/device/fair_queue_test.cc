#include "service/device/fair_queue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace kvsteward::device {
namespace {

std::vector<core::JobId> Take(FairQueue& queue, int count) {
  std::vector<core::JobId> order;
  for (int i = 0; i < count; ++i) order.push_back(queue.Next().value_or(0));
  return order;
}

TEST(FairQueue, GoesRoundOverTenantsAndThenOverTheirLeases) {
  FairQueue queue;
  queue.Add("a", 1, 10);
  queue.Add("a", 1, 11);
  queue.Add("a", 2, 12);
  queue.Add("b", 3, 13);
  EXPECT_EQ(Take(queue, 6), (std::vector<core::JobId>{10, 13, 12, 13, 10, 13}));
}

TEST(FairQueue, TheOldestJobOfALeaseGoesFirst) {
  FairQueue queue;
  queue.Add("a", 1, 11);
  queue.Add("a", 1, 10);
  EXPECT_EQ(Take(queue, 2), (std::vector<core::JobId>{10, 10}));
  queue.Remove("a", 1, 10);
  EXPECT_EQ(Take(queue, 1), (std::vector<core::JobId>{11}));
}

TEST(FairQueue, ATenantWithManyLeasesGetsNoMoreThanAnother) {
  FairQueue queue;
  for (core::LeaseId lease = 1; lease <= 100; ++lease) queue.Add("many", lease, lease);
  queue.Add("one", 1000, 1000);
  const std::vector<core::JobId> order = Take(queue, 50);
  EXPECT_EQ(std::ranges::count(order, core::JobId{1000}), 25);
}

TEST(FairQueue, RemovedJobsAreGone) {
  FairQueue queue;
  EXPECT_TRUE(queue.empty());
  EXPECT_EQ(queue.Next(), std::nullopt);
  queue.Add("a", 1, 10);
  queue.Remove("b", 1, 10);
  queue.Remove("a", 2, 10);
  queue.Remove("a", 1, 11);
  EXPECT_EQ(queue.Next(), 10u);
  queue.Remove("a", 1, 10);
  EXPECT_TRUE(queue.empty());
  EXPECT_EQ(queue.Next(), std::nullopt);
}

}  // namespace
}  // namespace kvsteward::device
