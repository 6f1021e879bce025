// What a preset costs beside ahakv, and how much heap it takes.
#include <memory>
#include <string>
#include <vector>

#include "tests/bench/heap_peak.h"
#include "tests/bench/measure.h"
#include "tests/bench/sections.h"

namespace kvsteward::bench {
namespace {

std::vector<engine::Policy> AllPresets() {
  std::vector<engine::Policy> policies;
  for (const std::string& name : engine::PresetNames()) policies.push_back(WithWindow(*engine::Preset(name)));
  return policies;
}

}  // namespace

nlohmann::json MeasurePresets(const Options& options) {
  Fixture fixture(options.tokens);
  const std::unique_ptr<engine::Engine> engine = engine::NewHostEngine(options.threads);
  const int64_t budget = std::max(64, options.tokens / 10);
  const std::vector<engine::Policy> policies = AllPresets();
  const engine::Policy ahakv = WithWindow(*engine::Preset("ahakv"));
  const auto plan = [&](const engine::Policy& policy, bool normed) {
    const engine::SequenceView& sequence = fixture.Sequence(policy, {.tokens = options.tokens, .normed = normed});
    return Measure([&] { MakePlan(*engine, sequence, policy, budget); }).wall;
  };
  for (const engine::Policy& policy : policies) plan(policy, false);  // the norms of its kind
  std::vector<Series> ratios(policies.size());
  std::vector<Series> costs(policies.size());
  Series reference;
  for (int round = 0; round < options.rounds; ++round) {
    for (size_t i = 0; i < policies.size(); ++i) {
      const double base = plan(ahakv, true);
      const double cost = plan(policies[i], true);
      reference.Add(1e3 * base);
      costs[i].Add(1e3 * cost);
      ratios[i].Add(cost / base);
    }
  }
  Section section("Plans of " + std::to_string(options.tokens) + " tokens, one layer, window 32, norms cached, " +
                  std::to_string(options.rounds) + " rounds");
  section.Add("ahakv, ms", "ahakv_ms", reference);
  for (size_t i = 0; i < policies.size(); ++i) {
    section.Add(policies[i].name + " / ahakv next to it", policies[i].name, ratios[i]);
    section.Add("  of the minima", policies[i].name + "_minima", costs[i].Min() / reference.Min());
  }
  return section.Take();
}

nlohmann::json MeasureWorkspace(const Options& options) {
  constexpr int32_t kLayers = 4;
  Fixture fixture(options.tokens, kLayers);
  const std::unique_ptr<engine::Engine> engine = engine::NewHostEngine(options.threads);
  const int64_t budget = std::max(64, options.tokens / 10);
  Section section("Peak heap of a plan of " + std::to_string(kLayers) + " layers of " + std::to_string(options.tokens) +
                  " tokens / (16 bytes a token of every layer held + 8 MiB)");
  for (const engine::Policy& policy : AllPresets()) {
    const engine::SequenceView& sequence =
        fixture.Sequence(policy, {.tokens = options.tokens, .layers = kLayers, .normed = false});
    ResetHeapPeak();
    MakePlan(*engine, sequence, policy, budget);
    // Whoever compares layers holds the scores of all of them; so do pins and running scores.
    const bool all = policy.layer.reads_scores() || policy.protect.mass_ppm > 0 || policy.running();
    const double bound = 16.0 * kKvHeads * options.tokens * (all ? kLayers : 1) + (8 << 20);
    section.Add(policy.name + (all ? " (all layers)" : ""), policy.name, static_cast<double>(HeapPeak()) / bound);
  }
  return section.Take();
}

}  // namespace kvsteward::bench
