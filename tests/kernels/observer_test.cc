// What an observer adds up, in which order, and what it refuses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/kernels/planner_fixture.h"

namespace kvsteward::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(Observer, AccumulatesAllLayersBeforeItStores) {
  FakeEngine engine;
  Sequence sequence({3, 4, 5, 6}, 2);
  SequenceView view = sequence.View();
  view.observed = 56;
  absl::StatusOr<Observer> observer = Observer::Start(engine, view, RunningPolicy(), {});
  ASSERT_TRUE(observer.ok()) << observer.status();
  ASSERT_TRUE(observer->Step().ok());
  EXPECT_FALSE(observer->finished());
  ASSERT_TRUE(observer->Step().ok());
  EXPECT_TRUE(observer->finished());
  EXPECT_THAT(engine.log, ElementsAre("accumulate 0 k 0", "accumulate 1 k 0"));
  ASSERT_TRUE(observer->Commit().ok());
  EXPECT_THAT(engine.stored, ElementsAre(std::vector<float>(7, 0.0f), std::vector<float>(11, 1.0f)));
  EXPECT_EQ(engine.log.back(), "store 1");
}

TEST(Observer, AnErrorStoresNothing) {
  FakeEngine engine;
  engine.bad_layer = 3;
  engine.error = absl::CancelledError("stopped");
  Sequence sequence(std::vector<int32_t>(4, 30), 4);
  SequenceView view = sequence.View();
  view.observed = 56;
  absl::StatusOr<Observer> observer = Observer::Start(engine, view, RunningPolicy(), kTen);
  for (int step = 0; step < 3; ++step) ASSERT_TRUE(observer->Step().ok());
  EXPECT_EQ(observer->Step(), engine.error);
  EXPECT_FALSE(observer->finished());
  EXPECT_TRUE(engine.stored.empty());
  EXPECT_EQ(engine.log.back(), "accumulate 3 k 10");
}

TEST(Observer, TakesOnlyTheRowsThatFollow) {
  FakeEngine engine;
  Sequence sequence({30, 30});
  SequenceView view = sequence.View();
  const auto start = [&](const Policy& policy, const Budget& budget) {
    return Observer::Start(engine, view, policy, budget).status();
  };
  for (const int64_t observed : {0, 55, 57, 60}) {
    view.observed = observed;
    EXPECT_EQ(start(RunningPolicy(), {}).code(), absl::StatusCode::kAborted) << observed;
  }
  view.observed = 56;
  EXPECT_TRUE(start(RunningPolicy(), {}).ok());
  static constexpr int32_t kGap[] = {56, 57, 59};
  view.window.rows = 3;
  view.window.positions = kGap;
  EXPECT_THAT(std::string(start(RunningPolicy(), {}).message()), HasSubstr("has 59 where 58 comes next"));
  view.window.positions = std::span(kGap).first(2);
  EXPECT_EQ(start(RunningPolicy(), {}).code(), absl::StatusCode::kInvalidArgument);
  view.window = {};
  EXPECT_EQ(start(RunningPolicy(), {}).code(), absl::StatusCode::kInvalidArgument);
}

TEST(Observer, RefusesWhatCannotWork) {
  FakeEngine engine;
  Sequence sequence({30, 30});
  SequenceView view = sequence.View();
  view.observed = 56;
  const auto refused = [&](const Policy& policy, const Budget& budget) {
    const absl::Status status = Observer::Start(engine, view, policy, budget).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(refused(SmallPolicy(), kTen), HasSubstr("accumulate running"));
  EXPECT_THAT(refused(RunningPolicy(), {Budget::Kind::kTokens, -1}), HasSubstr("budget is -1"));
  Policy bad = RunningPolicy();
  bad.window = -1;
  EXPECT_THAT(refused(bad, kTen), HasSubstr("window"));
  view.geometry.head_dim = 0;
  EXPECT_THAT(refused(RunningPolicy(), kTen), HasSubstr("geometry"));
  view.geometry.head_dim = 2;
  --sequence.unit(1).length;
  Policy layer = RunningPolicy();
  layer.group.span = Group::Span::kLayer;
  EXPECT_THAT(refused(layer, kTen), HasSubstr("group.span"));
}

}  // namespace
}  // namespace kvsteward::engine
