#include "service/steward/call_registry.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "tests/memory/inbox.h"

namespace kvsteward::steward {
namespace {

TEST(CallRegistry, ACallIsAnsweredOnce) {
  CallRegistry calls;
  int replies = 0;
  int notices = 0;
  const core::CallId call =
      calls.Add([&](const core::Outcome&, const core::ReplyBody&) { ++replies; }, [&](core::NoticeKind) { ++notices; });
  const core::CallId other = calls.Add([&](const core::Outcome&, const core::ReplyBody&) { replies += 100; }, {});
  EXPECT_NE(call, other);
  calls.Notify(call, core::NoticeKind::kLive);
  calls.Notify(call, core::NoticeKind::kDraining);
  calls.Notify(other, core::NoticeKind::kLive);  // it takes none
  calls.Reply(call, {}, {});
  calls.Reply(call, {}, {});
  calls.Notify(call, core::NoticeKind::kLive);
  EXPECT_EQ(replies, 1);
  EXPECT_EQ(notices, 2);
  EXPECT_FALSE(calls.Cancel(call));
}

TEST(CallRegistry, ACancelledCallHearsNothing) {
  CallRegistry calls;
  int replies = 0;
  const core::CallId call = calls.Add([&](const core::Outcome&, const core::ReplyBody&) { ++replies; }, {});
  EXPECT_TRUE(calls.Cancel(call));
  EXPECT_FALSE(calls.Cancel(call));
  calls.Reply(call, {}, {});
  EXPECT_EQ(replies, 0);
}

TEST(CallRegistry, CancelWaitsForACallbackThatRuns) {
  CallRegistry calls;
  Gate entered;
  Gate leave;
  std::atomic<bool> done = false;
  const core::CallId call = calls.Add(
      [&](const core::Outcome&, const core::ReplyBody&) {
        entered.Open();
        leave.Wait();
        done = true;
      },
      {});
  std::thread loop([&] { calls.Reply(call, {}, {}); });
  entered.Wait();
  std::thread opener([&] { leave.Open(); });
  EXPECT_FALSE(calls.Cancel(call));
  EXPECT_TRUE(done);
  loop.join();
  opener.join();
}

TEST(CallRegistry, CancelFromWithinACallbackDoesNotWait) {
  CallRegistry calls;
  core::CallId call = 0;
  int notices = 0;
  call = calls.Add({}, [&](core::NoticeKind) {
    ++notices;
    EXPECT_TRUE(calls.Cancel(call));
  });
  calls.Notify(call, core::NoticeKind::kLive);
  calls.Notify(call, core::NoticeKind::kLive);
  EXPECT_EQ(notices, 1);
}

TEST(CallRegistry, EveryoneCanBeAnsweredAtOnce) {
  CallRegistry calls;
  int replies = 0;
  for (int i = 0; i < 3; ++i) {
    calls.Add([&](const core::Outcome& outcome,
                  const core::ReplyBody&) { replies += outcome.code == core::Code::kUnavailable; },
              {});
  }
  calls.ReplyToAll({.code = core::Code::kUnavailable, .message = "", .shortage = {}});
  EXPECT_EQ(replies, 3);
  core::Outcome late;
  const core::CallId call =
      calls.Add([&](const core::Outcome& outcome, const core::ReplyBody&) { late = outcome; }, {});
  EXPECT_EQ(late.code, core::Code::kUnavailable);
  EXPECT_FALSE(calls.Cancel(call));
}

}  // namespace
}  // namespace kvsteward::steward
