// The named presets. Each follows its paper's shape; its comment says what the paper leaves open and is fixed here, and
// what differs from the authors' code.
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {
namespace {

Refinement MaxPool(int32_t pool) { return {.kind = Refinement::Kind::kMaxPool, .pool = pool}; }

Refinement ValuePrior(Refinement::Norm norm, int32_t pool, Refinement::Scale scale) {
  return {.kind = Refinement::Kind::kValuePrior,
          .pool = pool,
          .edge = Refinement::Edge::kValid,
          .norm = norm,
          .scale = scale};
}

Protect Recent(int32_t sinks, int32_t recent) { return {.sinks = sinks, .recent = recent}; }

std::vector<Policy> MakePresets() {
  std::vector<Policy> presets;

  // The default: AhaKV's signal with Ada-KV's head budgets. It changes AhaKV where its weak spots are: the gain is
  // never below the model's own softmax (g_min 1), the value prior is not blurred over neighbours (pool 1) and is
  // scaled by its mean, so that one loud token does not silence its head under joint budgets; and the attention sinks,
  // which have small values, are protected.
  presets.push_back({.name = "ahakv-ada",
                     .window = 32,
                     .signal = {.kind = Signal::Kind::kStepGainSoftmax, .g_min_ppm = kPpm},
                     .accumulate = Accumulate::kSum,
                     .group = Group::kMean,
                     .refine = {ValuePrior(Refinement::Norm::kL2Squared, 1, Refinement::Scale::kMean)},
                     .protect = Recent(4, 32),
                     .layer = LayerBudget::kUniform,
                     .head = {.kind = HeadBudget::Kind::kAdaFloor, .alpha_ppm = 200'000},
                     .select = Select::kTopK});

  // AhaKV (arXiv 2506.03762): step-gain softmax, accumulated over the last 32 rows, times the pooled value norms. Open
  // in the paper and fixed here: pool width 7 that divides by what exists, group mean, k the whole budget with the
  // recent tokens, i the tokens seen, no sinks.
  presets.push_back({.name = "ahakv",
                     .window = 32,
                     .signal = {.kind = Signal::Kind::kStepGainSoftmax, .g_min_ppm = 0},
                     .accumulate = Accumulate::kSum,
                     .group = Group::kMean,
                     .refine = {ValuePrior(Refinement::Norm::kL2Squared, 7, Refinement::Scale::kMax)},
                     .protect = Recent(0, 32),
                     .layer = LayerBudget::kUniform,
                     .head = {},
                     .select = Select::kTopK});

  // SnapKV (arXiv 2404.14469): window attention, max-pooled, in its LongBench setting (window 32, pool 7). It selects
  // per kv head, where the authors' code repeats the keys and stores what each query head selects.
  presets.push_back({.name = "snapkv",
                     .window = 32,
                     .signal = {.kind = Signal::Kind::kSoftmax},
                     .accumulate = Accumulate::kSum,
                     .group = Group::kMean,
                     .refine = {MaxPool(7)},
                     .protect = Recent(0, 32),
                     .layer = LayerBudget::kUniform,
                     .head = {},
                     .select = Select::kTopK});

  // Ada-SnapKV (arXiv 2407.11550): SnapKV's scores, head budgets blended from the joint best (80 %) and the uniform
  // share (20 %; in the authors' code alpha weighs the uniform part). Rounded by largest remainder, because the total
  // of the authors' rounding drifts.
  presets.push_back({.name = "ada-snapkv",
                     .window = 32,
                     .signal = {.kind = Signal::Kind::kSoftmax},
                     .accumulate = Accumulate::kMean,
                     .group = Group::kMean,
                     .refine = {MaxPool(7)},
                     .protect = Recent(0, 32),
                     .layer = LayerBudget::kUniform,
                     .head = {.kind = HeadBudget::Kind::kAdaBlend, .alpha_ppm = 200'000},
                     .select = Select::kTopK});

  // StreamingLLM (arXiv 2309.17453): four sinks and the most recent tokens. Keys keep the positions they were rotated
  // to; the original rotates them to their place in the cache.
  presets.push_back({.name = "streaming-llm",
                     .window = 32,
                     .signal = {.kind = Signal::Kind::kNone},
                     .accumulate = Accumulate::kSum,
                     .group = Group::kMean,
                     .refine = {},
                     .protect = {.sinks = 4, .recent_kind = Protect::Recent::kBudgetMinus, .recent = 4},
                     .layer = LayerBudget::kUniform,
                     .head = {},
                     .select = Select::kTopK});

  // DefensiveKV (arXiv 2510.13334) as far as one layer and the values tell: the worst case over rows and query heads,
  // not below the head's mean, times the value norm, best of all heads. It leaves out the row pooling, the pins by
  // attention mass and the norms of projected values.
  presets.push_back({.name = "defensivekv-lite",
                     .window = 32,
                     .signal = {.kind = Signal::Kind::kSoftmax},
                     .accumulate = Accumulate::kMax,
                     .group = Group::kMax,
                     .refine = {{.kind = Refinement::Kind::kClampToMean},
                                ValuePrior(Refinement::Norm::kL2, 1, Refinement::Scale::kMax)},
                     .protect = Recent(0, 32),
                     .layer = LayerBudget::kUniform,
                     .head = {.kind = HeadBudget::Kind::kAdaFloor, .alpha_ppm = 0},
                     .select = Select::kTopK});
  return presets;
}

const std::vector<Policy>& Presets() {
  static const auto* const presets =
      new std::vector<Policy>(MakePresets());  // never destroyed: threads may outlive main
  return *presets;
}

}  // namespace

absl::StatusOr<Policy> Preset(std::string_view name) {
  std::string names;
  for (const Policy& preset : Presets()) {
    if (preset.name == name) return preset;
    names += (names.empty() ? "" : ", ") + preset.name;
  }
  return absl::NotFoundError("there is no policy '" + std::string(name) + "'; choose one of " + names);
}

std::vector<std::string> PresetNames() {
  std::vector<std::string> names;
  for (const Policy& preset : Presets()) names.push_back(preset.name);
  return names;
}

}  // namespace kvsteward::engine
