// How the cost of an eviction grows with the number of tokens: plan and compaction of one layer at a tenth kept.
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "tests/bench/measure.h"
#include "tests/bench/sections.h"

namespace kvsteward::bench {

nlohmann::json MeasureScaling(const Options& options) {
  constexpr int32_t kLeast = 1024;
  constexpr int32_t kMost = 262'144;
  constexpr int32_t kSample = 32'768;  // tokens that a measurement handles at least, in repetitions
  Fixture fixture(kMost);
  const std::unique_ptr<engine::Engine> engine = engine::NewHostEngine(options.threads);
  std::vector<engine::Policy> policies;
  for (const char* name : {"ahakv-ada", "ada-snapkv", "kv-compress", "keydiff"}) {
    policies.push_back(WithWindow(*engine::Preset(name)));
  }
  std::vector<Run> to;
  for (int32_t head = 0; head < kKvHeads; ++head) to.push_back(fixture.FreeRun(head));

  // Nanoseconds per token and kv head.
  const auto evict = [&](const engine::Policy& policy, int32_t tokens, bool normed) {
    const engine::SequenceView& sequence = fixture.Sequence(policy, {.tokens = tokens, .normed = normed});
    const int repetitions = std::max(1, kSample / tokens);
    const Time time = Measure([&] {
      for (int i = 0; i < repetitions; ++i) {
        const engine::Plan plan = MakePlan(*engine, sequence, policy, tokens / 10);
        std::vector<engine::UnitMove> moves;
        for (int32_t head = 0; head < kKvHeads; ++head) moves.push_back({head, {&to[static_cast<size_t>(head)], 1}});
        if (!engine->CompactUnits(sequence, plan, moves, {}).ok()) std::abort();
      }
    });
    return 1e9 * time.wall / repetitions / tokens / kKvHeads;
  };

  for (const engine::Policy& policy : policies) evict(policy, kMost, false);
  std::vector<int32_t> lengths;
  for (int32_t tokens = kLeast; tokens <= kMost; tokens *= 2) lengths.push_back(tokens);
  std::vector<std::vector<Series>> costs(policies.size(), std::vector<Series>(lengths.size()));
  for (int round = 0; round < options.rounds; ++round) {
    for (size_t n = 0; n < lengths.size(); ++n) {
      for (size_t p = 0; p < policies.size(); ++p) costs[p][n].Add(evict(policies[p], lengths[n], true));
    }
  }

  Section section("An eviction to 10 %, ns per token and kv head, " + std::to_string(options.rounds) + " rounds");
  for (size_t p = 0; p < policies.size(); ++p) {
    for (size_t n = 0; n < lengths.size(); ++n) {
      section.Add(policies[p].name + ", " + std::to_string(lengths[n]) + " tokens",
                  policies[p].name + "/" + std::to_string(lengths[n]), costs[p][n]);
    }
  }
  return section.Take();
}

}  // namespace kvsteward::bench
