// Observe and running scores: what the device is told, and what core remembers of what it answers.
#include <gtest/gtest.h>

#include "tests/core/evicting.h"
#include "tests/core/matchers.h"

namespace kvsteward::core {
namespace {

struct Observing : Evicting {
  explicit Observing(int32_t reserved, int32_t written_tokens = -1) : Evicting(reserved, written_tokens) {}
  ObserveAsked Rows(uint64_t request_id = 0) const { return ObserveOf(worker, 1, written, request_id); }
  ObserveResult Observed(CallId call, size_t item = 0) const {
    const Reply* reply = world.ReplyTo(call);
    return reply == nullptr ? ObserveResult{} : std::get<ObserveReply>(reply->body).results.at(item);
  }
  // Asks, lets the device answer so, and returns the first result.
  ObserveResult Observe(const ObserveAsked& asked, EvictPlanned answer) {
    answer.job = Ask(asked);
    const CallId call = world.last_call();
    if (answer.job != 0) Plan(answer);
    world.FinishAll();
    return Observed(call);
  }
  static EvictPlanned Until(int32_t observed_tokens) {
    EvictPlanned answer;
    answer.observed_tokens = observed_tokens;
    return answer;
  }
};

TEST(Observe, RunsAJobThatAccumulatesAndMovesNothing) {
  Observing o(64, 40);
  ObserveAsked asked = o.Rows();
  asked.items[0].policy = PolicyOf(7);
  asked.items[0].spec = BudgetOf(5);
  const JobId job = o.Ask(asked);
  const RunEvict run = o.world.Open<RunEvict>().at(0);
  EXPECT_TRUE(run.observe);
  EXPECT_EQ(run.policy->number, 7);
  EXPECT_EQ(run.spec, asked.items[0].spec);
  EXPECT_EQ(run.written_tokens, 40);
  EXPECT_EQ(run.observed_tokens, 0);
  EXPECT_EQ(run.accumulated, nullptr);
  EvictPlanned answer = Observing::Until(40);
  answer.job = job;
  answer.times.score_us = 9;
  const CallId call = o.world.last_call();
  o.Plan(answer);
  EXPECT_EQ(o.world.ReplyTo(call), nullptr);  // the device has not let go of the sequence
  o.world.FinishAll();
  const ObserveResult result = o.Observed(call);
  EXPECT_TRUE(result.outcome.ok());
  EXPECT_EQ(result.observed_tokens, 40);
  EXPECT_EQ(result.version, 1u);
  EXPECT_EQ(result.times.score_us, 9u);
  EXPECT_EQ(result.policy->number, 7);

  const RunEvict next = o.Peek();
  EXPECT_EQ(next.observed_tokens, 40);
  EXPECT_EQ(next.accumulated->number, 7);
  for (const Unit& unit : next.units) EXPECT_EQ(unit.scored, 40);
  o.written = 50;
  EXPECT_EQ(o.Observe(o.Rows(), Observing::Until(50)).observed_tokens, 50);
  EXPECT_EQ(o.Peek().accumulated->number, 7);  // the first one's
  EXPECT_EQ(o.world.Must<ReserveReply>(ReserveOf(o.worker, 1, 1, 50)).results[0].reserved_tokens, 64);
}

TEST(Observe, ChangesNothingOnARefusal) {
  Observing o(64, 40);
  o.Observe(o.Rows(), Observing::Until(30));
  for (const Outcome& outcome : std::vector<Outcome>{{Code::kAborted, "row 31 comes next", {}},
                                                     {Code::kCancelled, "cancelled", {}},
                                                     {Code::kInvalidArgument, "queries[0] is NaN", {}}}) {
    EvictPlanned answer;
    answer.outcome = outcome;
    const ObserveResult result = o.Observe(o.Rows(5), answer);
    EXPECT_THAT(result.outcome, RefusedWith(outcome.code, outcome.message));
    EXPECT_EQ(result.observed_tokens, 30);
    EXPECT_EQ(o.Peek().observed_tokens, 30);
  }
  EXPECT_EQ(o.Observe(o.Rows(5), Observing::Until(40)).observed_tokens, 40);  // a refusal is not remembered
  EXPECT_THAT(o.Observe(o.Rows(), Observing::Until(41)).outcome, RefusedWith(Code::kUnavailable, "does not fit"));
  EXPECT_EQ(o.Peek().observed_tokens, 40);
}

TEST(Observe, IsRepeatableByItsRequest) {
  Observing o(64);
  EXPECT_EQ(o.Observe(o.Rows(5), Observing::Until(64)).observed_tokens, 64);
  EXPECT_EQ(o.Ask(o.Rows(5)), 0u);
  EXPECT_EQ(o.Observed(o.world.last_call()).observed_tokens, 64);
  ObserveAsked other = o.Rows(5);
  other.items[0].request_hash = 1;
  EXPECT_EQ(o.Ask(other), 0u);
  EXPECT_THAT(o.Observed(o.world.last_call()).outcome, RefusedWith(Code::kInvalidArgument, "request_id 5"));
  EvictAsked evict = o.Item();
  evict.items[0].request_id = 5;
  EXPECT_EQ(o.Ask(evict), 0u);
  EXPECT_THAT(o.Result(o.world.last_call()).outcome, RefusedWith(Code::kInvalidArgument, "request_id 5"));
}

TEST(Observe, ChecksEveryItemForItself) {
  Observing o(64, 40);
  o.Add(2, 16);
  o.Ask(EvictOf(o.worker, 2, 16));  // busy from here on
  ObserveAsked asked = o.Rows();
  asked.items[0].written_tokens = 65;
  const auto add = [&](SequenceId id) { asked.items.push_back(ObserveOf(o.worker, id, 40).items[0]); };
  for (const SequenceId id : {9, 2, 1, 1}) add(id);
  o.world.Ask(asked);
  const CallId call = o.world.last_call();
  o.world.FinishAll();
  const std::vector<std::pair<Code, std::string>> expected = {{Code::kInvalidArgument, "written_tokens is 65"},
                                                              {Code::kNotFound, "sequence 9"},
                                                              {Code::kFailedPrecondition, "sequence 2 is busy"},
                                                              {Code::kOk, ""},
                                                              {Code::kFailedPrecondition, "sequence 1 is busy"}};
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_THAT(o.Observed(call, i).outcome, RefusedWith(expected[i].first, expected[i].second));
  }
}

TEST(Observe, CountsAmongTheJobsOfALease) {
  Config config = SmallConfig();
  config.queued_evicts_per_lease = 1;
  Evicting e(64, 64, config);
  e.Add(2, 16);
  e.Ask(ObserveOf(e.worker, 1, 64));
  e.world.Ask(ObserveOf(e.worker, 2, 16));
  const Reply* reply = e.world.ReplyTo(e.world.last_call());
  ASSERT_NE(reply, nullptr);
  EXPECT_THAT(std::get<ObserveReply>(reply->body).results[0].outcome, RefusedWith(Code::kResourceExhausted, "retry"));
  e.world.FinishAll();
}

TEST(Observe, ForgetsTheLastPlan) {
  Observing o(64);
  EvictAsked asked = o.Item();
  asked.items[0].plan_only = asked.items[0].export_plan = true;
  EXPECT_EQ(o.Evict(asked, {10, 20}).plan.offset, 64u);
  o.Observe(o.Rows(), Observing::Until(64));
  o.Add(2, 16);
  asked.items[0].sequence = 2;
  asked.items[0].written_tokens = 16;
  EXPECT_EQ(o.Evict(asked, {10, 16}).plan.offset, 64u);  // the place is free again
}

TEST(Observe, IsStoppedByACancelAndByARelease) {
  Observing o(64);
  const JobId job = o.Ask(o.Rows(5));
  o.world.Post(CallCancelled{o.world.last_call()});
  o.Plan([&] {
    EvictPlanned answer = Observing::Until(64);  // the cancel came too late for the device
    answer.job = job;
    return answer;
  }());
  o.world.FinishAll();
  EXPECT_EQ(o.Ask(o.Rows(5)), 0u);  // what was done is remembered
  EXPECT_EQ(o.Observed(o.world.last_call()).observed_tokens, 64);

  o.Ask(o.Rows());
  o.world.Ask(ReleaseOf(o.worker, 1));
  const CallId release = o.world.last_call();
  EXPECT_EQ(o.world.ReplyTo(release), nullptr);
  o.world.FinishAll();
  EXPECT_EQ(std::get<ReleaseSequenceReply>(o.world.ReplyTo(release)->body).blocks_freed, 8u);
}

TEST(Observe, IsRefusedWhileDraining) {
  Observing o(64);
  o.world.Post(DrainAsked{});
  EXPECT_THAT(o.world.Ask(o.Rows()), Refused(Code::kUnavailable, "draining"));
}

TEST(RunningScores, GoWithTheTokensThroughEvictions) {
  Observing o(64, 50);
  o.Observe(o.Rows(), Observing::Until(50));
  o.written = 64;
  // A policy without running scores: of the tokens kept, the device counts those that were scored.
  EvictPlanned plan = PlanOf(o.Ask(o.Item()), {20, 64});
  plan.scored = {15, 50};
  o.Plan(plan);
  o.world.FinishAll();
  RunEvict known = o.Peek();
  EXPECT_EQ(known.observed_tokens, 50);
  EXPECT_EQ(known.units[0].scored, 15);
  EXPECT_EQ(known.units[1].scored, 50);  // not settled

  // One with: all are scored before the first unit moves.
  plan = PlanOf(o.Ask(o.Item()), {8, 16});
  plan.observed_tokens = 64;
  plan.scored = {8, 16};
  o.Plan(plan);
  o.Compacted(plan.job, 1);  // and the other unit is not compacted
  o.world.FinishAll();
  known = o.Peek();
  EXPECT_EQ(known.observed_tokens, 64);
  EXPECT_EQ(known.units[0].scored, 8);
  EXPECT_EQ(known.units[1].scored, 64);
}

TEST(RunningScores, StayAsTheyAreWithAPlanOnlyANoOpOrAPlanThatDoesNotFit) {
  Observing o(64, 50);
  o.Observe(o.Rows(), Observing::Until(40));
  o.written = 64;
  EvictAsked asked = o.Item();
  asked.items[0].plan_only = true;
  EvictPlanned plan = PlanOf(o.Ask(asked), {20, 20});
  plan.scored = {5, 5};
  o.Plan(plan);
  o.world.FinishAll();
  o.Peek();  // a no-op
  struct Case {
    std::vector<int32_t> scored;
    int32_t observed_tokens;
  };
  for (const Case& c : std::vector<Case>{{{21, 5}, -1}, {{-1, 5}, -1}, {{5}, -1}, {{5, 5}, 65}}) {
    plan = PlanOf(o.Ask(o.Item()), {20, 20});
    plan.scored = c.scored;
    plan.observed_tokens = c.observed_tokens;
    o.Plan(plan);
    const CallId call = o.world.last_call();
    o.world.FinishAll();
    EXPECT_THAT(o.Result(call).outcome, RefusedWith(Code::kUnavailable, "does not fit"));
  }
  const RunEvict known = o.Peek();
  EXPECT_EQ(known.observed_tokens, 40);
  EXPECT_EQ(known.units[0].scored, 50);
}

TEST(RunningScores, AreLoweredByTruncate) {
  Observing o(64);
  o.Observe(o.Rows(), Observing::Until(60));
  o.world.Must<TruncateReply>(TruncateOf(o.worker, 1, 62));
  o.written = 62;
  EXPECT_EQ(o.Peek().observed_tokens, 60);
  EXPECT_EQ(o.Units()[0].scored, 62);
  o.world.Must<TruncateReply>(TruncateOf(o.worker, 1, 30));
  o.written = 30;
  EXPECT_EQ(o.Peek().observed_tokens, 30);
  EXPECT_EQ(o.Units()[1].scored, 30);
  EXPECT_NE(o.Peek().accumulated, nullptr);
  o.world.Must<TruncateReply>(TruncateOf(o.worker, 1, 0));
  o.written = 0;
  EXPECT_EQ(o.Peek().observed_tokens, 0);
  EXPECT_EQ(o.Peek().accumulated, nullptr);  // any definition may come now
}

}  // namespace
}  // namespace kvsteward::core
