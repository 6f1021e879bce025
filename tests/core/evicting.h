// A worker with one sequence that is evicted, for tests of what core makes of it.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <utility>
#include <variant>
#include <vector>

#include "tests/core/world.h"

namespace kvsteward::core {

inline constexpr uint64_t kBlock = kShape.block_bytes;

// A live worker with one sequence of so many tokens, all written unless said otherwise.
struct Evicting {
  explicit Evicting(int32_t reserved, int32_t written_tokens = -1, Config config = SmallConfig(), Shape shape = kShape)
      : world(std::move(config)), worker(world.Live("a", shape)) {
    written = written_tokens < 0 ? reserved : written_tokens;
    Add(1, reserved);
  }
  void Add(SequenceId id, int32_t reserved) {
    world.Must<CreateSequenceReply>(CreateOf(worker, id, 1000));
    world.Must<ReserveReply>(ReserveOf(worker, id, reserved));
  }
  // Asks for an eviction; the job that runs then, 0 if none does.
  template <typename Asked>
  JobId Ask(const Asked& asked) {
    const size_t before = world.Open<RunEvict>().size();
    world.Ask(asked);
    const auto runs = world.Open<RunEvict>();
    return runs.size() > before ? runs.back().job : 0;
  }
  EvictAsked Item(SequenceId id = 1) const { return EvictOf(worker, id, written); }
  // The device's plan for a job, by default for the budget that was asked for.
  void Plan(EvictPlanned planned) {
    for (size_t i = 0; i < world.open().size(); ++i) {
      const auto* run = std::get_if<RunEvict>(&world.open()[i]);
      if (run == nullptr || run->job != planned.job) continue;
      if (planned.budget_tokens == 0 && run->spec != nullptr) planned.budget_tokens = run->spec->budget_tokens;
      return world.AnswerOpen(i, planned);
    }
    FAIL() << "job " << planned.job << " is not being planned";
  }
  void Compacted(JobId job, uint32_t units) {
    for (size_t i = 0; i < world.open().size(); ++i) {
      const auto* wave = std::get_if<CompactUnits>(&world.open()[i]);
      if (wave != nullptr && wave->job == job) return world.AnswerOpen(i, UnitsCompacted{job, units, 5});
    }
    FAIL() << "job " << job << " has no wave under way";
  }
  EvictResult Result(CallId call, size_t item = 0) const {
    const Reply* reply = world.ReplyTo(call);
    return reply == nullptr ? EvictResult{} : std::get<EvictReply>(reply->body).results.at(item);
  }
  // Asks, lets everything end well, and returns the first result.
  EvictResult Evict(const EvictAsked& asked, std::vector<int32_t> kept) {
    const JobId job = Ask(asked);
    const CallId call = world.last_call();
    if (job != 0) Plan(PlanOf(job, std::move(kept)));
    world.FinishAll();
    return Result(call);
  }
  // What core knows of the sequence now, as it tells the device.
  RunEvict Peek() {
    const JobId job = Ask(Item());
    RunEvict peek;
    for (const RunEvict& run : world.Open<RunEvict>()) {
      if (run.job == job) peek = run;
    }
    world.FinishAll();
    return peek;
  }
  std::vector<Unit> Units() { return Peek().units; }

  World world;
  World::Worker worker;
  int32_t written = 0;
};

}  // namespace kvsteward::core
