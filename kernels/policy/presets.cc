// The named presets. Each follows its paper's shape; its comment names the source, says what the paper leaves open and
// is fixed here, and what differs from the authors' code. All keep tokens per kv head, never per query head, and count
// protected tokens in the budget.
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {
namespace {

// A stage is either a constant or, where it has fields that presets set, a function of them.

constexpr Signal kSoftmax = {.kind = Signal::Kind::kSoftmax};
constexpr Accumulate kMean = {.kind = Accumulate::Kind::kMean};
constexpr Group kOverLayer = {.kind = Group::Kind::kMean, .span = Group::Span::kLayer};
constexpr Group kMax = {.kind = Group::Kind::kMax};
constexpr Refinement kClampToMean = {.kind = Refinement::Kind::kClampToMean};

Signal StepGainSoftmax(int64_t g_min_ppm) { return {.kind = Signal::Kind::kStepGainSoftmax, .g_min_ppm = g_min_ppm}; }

Refinement MaxPool(int32_t pool) { return {.kind = Refinement::Kind::kMaxPool, .pool = pool}; }

Refinement ValuePrior(Norm norm, int32_t pool, Refinement::Scale scale) {
  return {.kind = Refinement::Kind::kValuePrior,
          .pool = pool,
          .edge = Refinement::Edge::kValid,
          .norm = norm,
          .scale = scale};
}

Protect Keep(int32_t sinks, int32_t recent) { return {.sinks = sinks, .recent = recent}; }

LayerBudget Layers(LayerBudget::Kind kind) { return {.kind = kind}; }

HeadBudget AdaFloor(int64_t alpha_ppm) { return {.kind = HeadBudget::Kind::kAdaFloor, .alpha_ppm = alpha_ppm}; }

HeadBudget AdaBlend(int64_t alpha_ppm) { return {.kind = HeadBudget::Kind::kAdaBlend, .alpha_ppm = alpha_ppm}; }

// ---- AhaKV

void AddAhaKv(std::vector<Policy>& presets) {
  // The default: the signal of AhaKV (arXiv 2506.03762) with the head budgets of Ada-KV (arXiv 2407.11550). It changes
  // AhaKV where its weak spots are: the gain is never below the model's own softmax (g_min 1), the value prior is not
  // blurred over neighbours (pool 1) and is scaled by its mean, so that one loud token does not silence its head under
  // joint budgets; and the attention sinks, which have small values, are protected.
  presets.push_back({.name = "ahakv-ada",
                     .signal = StepGainSoftmax(kPpm),
                     .refine = {ValuePrior(Norm::kL2Squared, 1, Refinement::Scale::kMean)},
                     .protect = Keep(4, 32),
                     .head = AdaFloor(200'000)});

  // AhaKV (arXiv 2506.03762): step-gain softmax, accumulated over the last 32 rows, times the pooled value norms. Open
  // in the paper and fixed here: pool width 7 that divides by what exists, group mean, k the whole budget with the
  // recent tokens, i the tokens seen, no sinks.
  presets.push_back({.name = "ahakv",
                     .signal = StepGainSoftmax(0),
                     .refine = {ValuePrior(Norm::kL2Squared, 7, Refinement::Scale::kMax)},
                     .protect = Keep(0, 32)});
}

// ---- SnapKV and its budgets

void AddSnapKv(std::vector<Policy>& presets) {
  // SnapKV (arXiv 2404.14469): window attention, max-pooled, in its LongBench setting (window 32, pool 7). It selects
  // per kv head, where the authors' code repeats the keys and stores what each query head selects.
  presets.push_back({.name = "snapkv", .signal = kSoftmax, .refine = {MaxPool(7)}, .protect = Keep(0, 32)});

  // Ada-SnapKV (arXiv 2407.11550): SnapKV's scores, head budgets blended from the joint best (80 %) and the uniform
  // share (20 %; in the authors' code alpha weighs the uniform part). Rounded by largest remainder, because the total
  // of the authors' rounding drifts.
  presets.push_back({.name = "ada-snapkv",
                     .signal = kSoftmax,
                     .accumulate = kMean,
                     .refine = {MaxPool(7)},
                     .protect = Keep(0, 32),
                     .head = AdaBlend(200'000)});

  // PyramidKV (arXiv 2406.02069): SnapKV's scores, layer budgets that fall linearly from bottom to top (beta 20).
  // Window 32 like the others, where the authors run 8; the line is exact and sums to the budget, where their integer
  // steps drift above it; the window counts in the budget.
  presets.push_back({.name = "pyramidkv",
                     .signal = kSoftmax,
                     .refine = {MaxPool(7)},
                     .protect = Keep(0, 32),
                     .layer = Layers(LayerBudget::Kind::kPyramid)});

  // Ada-PyramidKV (arXiv 2407.11550): both budgets above together. The pyramid is made anew for every eviction, where
  // the authors' code freezes the first prompt's.
  presets.push_back({.name = "ada-pyramidkv",
                     .signal = kSoftmax,
                     .accumulate = kMean,
                     .refine = {MaxPool(7)},
                     .protect = Keep(0, 32),
                     .layer = Layers(LayerBudget::Kind::kPyramid),
                     .head = AdaBlend(200'000)});
}

// ---- Earlier methods

void AddEarlier(std::vector<Policy>& presets) {
  // H2O (arXiv 2306.14048): attention summed over all rows there ever were, half of the budget for the heavy hitters
  // and half for the recent tokens. Rows come by Observe; query heads are averaged, where the authors' code has one
  // score row per query head.
  presets.push_back({.name = "h2o",
                     .window = 0,
                     .signal = kSoftmax,
                     .accumulate = {.kind = Accumulate::Kind::kRunning},
                     .protect = {.recent_kind = Protect::Recent::kBudgetOver, .recent = 2}});

  // TOVA (arXiv 2401.06104): the last row's attention, averaged over all query heads of the layer, one kept set for all
  // of them. The newest token is protected; the paper protects nothing and may drop it.
  presets.push_back({.name = "tova", .window = 1, .signal = kSoftmax, .group = kOverLayer, .protect = Keep(0, 1)});

  // StreamingLLM (arXiv 2309.17453): four sinks and the most recent tokens. Keys keep the positions they were rotated
  // to; the original rotates them to their place in the cache.
  presets.push_back({.name = "streaming-llm",
                     .signal = {.kind = Signal::Kind::kNone},
                     .protect = {.sinks = 4, .recent_kind = Protect::Recent::kBudgetMinus, .recent = 4}});

  // NACL (arXiv 2408.03675): proxy rows' attention, and 37 % of what competes drawn at random (0.07 of 0.19 in the
  // authors' setting). 32 causal rows instead of the last 1 % without a mask, 4 sinks instead of 256, query heads
  // averaged, and a seed of its own instead of the process's.
  presets.push_back({.name = "nacl",
                     .signal = kSoftmax,
                     .protect = Keep(4, 32),
                     .select = {.kind = Select::Kind::kTopKRandom, .fraction_ppm = 370'000, .seed = 0}});
}

// ---- Budgets across layers

void AddAcrossLayers(std::vector<Policy>& presets) {
  // LAVa (arXiv 2509.09754): pooled attention times the head's largest value norm, best of the group; layers weighed by
  // the entropy of their scores, heads blended as in Ada-KV. All layers are scored before the first is cut, where the
  // authors cut layer by layer again; their code damps the layer budgets by 20 %, which is left out.
  presets.push_back({.name = "lava",
                     .signal = kSoftmax,
                     .accumulate = kMean,
                     .group = {.kind = Group::Kind::kMax, .place = Group::Place::kAfterRefine},
                     .refine = {MaxPool(7), {.kind = Refinement::Kind::kValueScale, .norm = Norm::kL1}},
                     .protect = Keep(0, 32),
                     .layer = Layers(LayerBudget::Kind::kEntropy),
                     .head = AdaBlend(200'000)});

  // PrefixKV (arXiv 2412.03409): one ranking per layer, and every layer keeps the same share of its attention. From the
  // last 32 rows of the sequence itself, where the paper sums all rows and profiles the shares offline.
  presets.push_back({.name = "prefixkv",
                     .signal = kSoftmax,
                     .group = kOverLayer,
                     .protect = Keep(4, 1),
                     .layer = Layers(LayerBudget::Kind::kEqualMass)});
}

// ---- The worst case rather than the mean

void AddDefensive(std::vector<Policy>& presets) {
  // DefensiveKV (arXiv 2510.13334) as far as one layer and the values tell: the worst case over rows and query heads,
  // not below the head's mean, times the value norm, best of all heads. It leaves out the row pooling, the pins by
  // attention mass and the norms of projected values.
  presets.push_back({.name = "defensivekv-lite",
                     .signal = kSoftmax,
                     .accumulate = {.kind = Accumulate::Kind::kMax},
                     .group = kMax,
                     .refine = {kClampToMean, ValuePrior(Norm::kL2, 1, Refinement::Scale::kMax)},
                     .protect = Keep(0, 32),
                     .head = AdaFloor(0)});

  // DefensiveKV (arXiv 2510.13334) in full: rows pooled first, norms as a share over the heads, and the best of each
  // head pinned up to 90 % of its attention. 32 recent tokens are protected, where the authors add a bonus to the
  // window's scores. Norms are those of the values, where the authors project them with the output matrix; pins never
  // take more than the head's uniform share.
  Policy defensive = {.name = "defensivekv",
                      .signal = kSoftmax,
                      .accumulate = {.kind = Accumulate::Kind::kMax, .row_pool = 5},
                      .group = kMax,
                      .refine = {kClampToMean, ValuePrior(Norm::kL2, 1, Refinement::Scale::kHeads)},
                      .protect = {.recent = 32, .mass_ppm = 900'000},
                      .head = AdaFloor(0)};
  presets.push_back(defensive);

  // Layer-DefensiveKV (arXiv 2510.13334): the same, selected jointly over all layers.
  defensive.name = "layer-defensivekv";
  defensive.layer = Layers(LayerBudget::Kind::kGlobal);
  presets.push_back(defensive);
}

// ---- Other signals

void AddOtherSignals(std::vector<Policy>& presets) {
  // KV-Compress (arXiv 2410.00161): squared attention, summed over the group, and whole blocks freed where their
  // dearest token is cheapest. Window 32 as in the authors' code, and blocks compete within their layer, where its
  // default sorts over all layers. The pool runs before the group is summed.
  presets.push_back({.name = "kv-compress",
                     .signal = {.kind = Signal::Kind::kPower, .exponent_ppm = 2 * kPpm},
                     .group = {.kind = Group::Kind::kSum, .place = Group::Place::kAfterRefine},
                     .refine = {MaxPool(7)},
                     .protect = Keep(0, 32),
                     .head = AdaFloor(0),
                     .select = {.kind = Select::Kind::kBlock}});

  // KeyDiff (arXiv 2504.15364): the keys least like the mean key; no queries. Over all residents at once, where the
  // paper goes block by block; the score is 1 - cos, not below 0, which ranks like the paper's -cos.
  presets.push_back({.name = "keydiff", .signal = {.kind = Signal::Kind::kKeyDifference}});

  // Expected Attention (arXiv 2510.00636): the attention that the queries to come will give, times the value norm. The
  // caller supplies the queries' mean and covariance, already averaged over the rotations to come.
  presets.push_back({.name = "expected-attention",
                     .signal = {.kind = Signal::Kind::kExpected},
                     .refine = {ValuePrior(Norm::kL2, 1, Refinement::Scale::kNone)},
                     .protect = Keep(4, 0)});
}

// ---- Other selections and head budgets

void AddOtherSelections(std::vector<Policy>& presets) {
  // CriticalKV (arXiv 2502.03805) on SnapKV's scores: half of each head's budget by score, half by score times the norm
  // of the projected value, which the caller supplies; head budgets from the unscaled scores with Ada-KV's floor.
  presets.push_back({.name = "criticalkv",
                     .signal = kSoftmax,
                     .accumulate = kMean,
                     .refine = {MaxPool(7)},
                     .protect = Keep(0, 32),
                     .head = AdaFloor(200'000),
                     .select = {.kind = Select::Kind::kTwoStage, .fraction_ppm = 500'000}});

  // FastGen (arXiv 2310.01801): each head keeps the smallest of the nested sets that holds 95 % of its attention (a
  // share not verified in the paper's text), as far as the budget goes, which the paper does not have. Sinks stand for
  // its special tokens; `protect.classes` adds special tokens and punctuation that a caller flags.
  presets.push_back({.name = "fastgen",
                     .signal = kSoftmax,
                     .protect = Keep(4, 32),
                     .head = {.kind = HeadBudget::Kind::kCheapest, .mass_ppm = 950'000}});

  // Task-KV (arXiv 2501.15113): the heads farthest from the layer's mean keep all, the others share the rest. Two full
  // heads (a quarter of eight) in every layer, where the paper's number falls from layer to layer; 4 sinks and 32
  // recent tokens instead of 16 and 256, which no small budget holds.
  presets.push_back({.name = "task-kv",
                     .signal = kSoftmax,
                     .accumulate = kMean,
                     .refine = {{.kind = Refinement::Kind::kAvgPool, .pool = 7, .edge = Refinement::Edge::kPadded}},
                     .protect = Keep(4, 32),
                     .head = {.kind = HeadBudget::Kind::kSplit, .full_heads = 2}});

  // CSP (arXiv 2412.04652): attention that need not sum to 1, from rows of the other modality and of the own apart, a
  // tenth of the budget for the former. Open and fixed here: window and recent tokens 32. The caller flags each token's
  // class; a token is kept once, where the authors' two lists may both hold it.
  presets.push_back({.name = "csp",
                     .signal = {.kind = Signal::Kind::kSoftmax1},
                     .protect = Keep(0, 32),
                     .select = {.kind = Select::Kind::kTwoLists, .share_ppm = 100'000}});
}

// The default first.
std::vector<Policy> MakePresets() {
  std::vector<Policy> presets;
  AddAhaKv(presets);
  AddSnapKv(presets);
  AddEarlier(presets);
  AddAcrossLayers(presets);
  AddDefensive(presets);
  AddOtherSignals(presets);
  AddOtherSelections(presets);
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
  return absl::NotFoundError("there is no policy '" + std::string(name.substr(0, 64)) + "'; choose one of " + names);
}

std::vector<std::string> PresetNames() {
  std::vector<std::string> names;
  for (const Policy& preset : Presets()) names.push_back(preset.name);
  return names;
}

}  // namespace kvsteward::engine
