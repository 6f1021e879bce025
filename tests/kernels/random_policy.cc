// Draws from the whole space of policies that Validate accepts.
#include <algorithm>
#include <functional>

#include "tests/kernels/random_cases.h"

namespace kvsteward::engine {
namespace {

using SignalKind = Signal::Kind;
using RefineKind = Refinement::Kind;
using Scale = Refinement::Scale;
using LayerKind = LayerBudget::Kind;
using HeadKind = HeadBudget::Kind;
using SelectKind = Select::Kind;

constexpr SignalKind kSignals[] = {
    SignalKind::kNone,  SignalKind::kSubmitted, SignalKind::kSoftmax,       SignalKind::kStepGainSoftmax,
    SignalKind::kPower, SignalKind::kSoftmax1,  SignalKind::kKeyDifference, SignalKind::kExpected};
constexpr Accumulate::Kind kAccumulates[] = {Accumulate::Kind::kSum, Accumulate::Kind::kMean, Accumulate::Kind::kMax,
                                             Accumulate::Kind::kMeanVar, Accumulate::Kind::kRunning};
constexpr Group::Kind kGroups[] = {Group::Kind::kMean, Group::Kind::kMax, Group::Kind::kSum};
constexpr RefineKind kRefinements[] = {RefineKind::kMaxPool,    RefineKind::kAvgPool,     RefineKind::kValuePrior,
                                       RefineKind::kValueScale, RefineKind::kClampToMean, RefineKind::kMassRatio};
constexpr Scale kScales[] = {Scale::kMax, Scale::kMean, Scale::kNone, Scale::kHeads};
constexpr LayerKind kLayers[] = {LayerKind::kUniform, LayerKind::kTable,     LayerKind::kPyramid,
                                 LayerKind::kEntropy, LayerKind::kEqualMass, LayerKind::kGlobal};
constexpr HeadKind kHeads[] = {HeadKind::kUniform, HeadKind::kAdaFloor, HeadKind::kAdaBlend,
                               HeadKind::kTable,   HeadKind::kCheapest, HeadKind::kSplit};
constexpr SelectKind kSelects[] = {SelectKind::kTopK, SelectKind::kTopKRandom, SelectKind::kTwoStage,
                                   SelectKind::kTwoLists, SelectKind::kBlock};
constexpr int64_t kShares[] = {0, 1, 100'000, 200'000, 333'333, 500'000, 900'000, kPpm};
constexpr int64_t kWeights[] = {0, 1, 500'000, kPpm, 2'345'678, kPpm* kPpm};

Signal DrawSignal(Random& random) {
  Signal signal;
  signal.kind = OneOf(random, kSignals);
  if (signal.kind == SignalKind::kStepGainSoftmax)
    signal.g_min_ppm = OneOf<int64_t>(random, {0, 500'000, kPpm, 2'500'000});
  if (signal.kind == SignalKind::kPower) {
    signal.exponent_ppm = OneOf<int64_t>(random, {10'000, 500'000, kPpm, 2 * kPpm, 4 * kPpm});
  }
  if (signal.windowed() && random() % 3 == 0) signal.over = Signal::Over::kCandidates;
  return signal;
}

Accumulate DrawAccumulate(Random& random) {
  Accumulate accumulate;
  accumulate.kind = OneOf(random, kAccumulates);
  if (accumulate.kind == Accumulate::Kind::kMeanVar) {
    accumulate.gamma_ppm = OneOf<int64_t>(random, {0, 500'000, 200 * kPpm, kPpm * kPpm});
  }
  if (accumulate.kind == Accumulate::Kind::kRunning) {
    accumulate.decay_ppm = OneOf<int64_t>(random, {0, 500'000, 999'999, kPpm});
  }
  accumulate.row_pool = OneOf<int32_t>(random, {1, 1, 1, 3, 5, 33});
  return accumulate;
}

Refinement DrawRefinement(Random& random) {
  Refinement r;
  r.kind = OneOf(random, kRefinements);
  const bool prior = r.kind == RefineKind::kValuePrior;
  if (prior || r.kind == RefineKind::kMaxPool || r.kind == RefineKind::kAvgPool) {
    r.pool = OneOf<int32_t>(random, {1, 3, 5, 7, 31, 1001});
  }
  if (prior || r.kind == RefineKind::kAvgPool) {
    r.edge = OneOf(random, {Refinement::Edge::kPadded, Refinement::Edge::kValid});
  }
  if (prior || r.kind == RefineKind::kValueScale) r.norm = OneOf(random, {Norm::kL2Squared, Norm::kL2, Norm::kL1});
  if (prior) r.scale = OneOf(random, kScales);
  return r;
}

Protect DrawProtect(Random& random) {
  Protect protect;
  protect.sinks = OneOf<int32_t>(random, {0, 0, 1, 4, 50});
  protect.recent_kind = OneOf(random, {Protect::Recent::kTokens, Protect::Recent::kTokens,
                                       Protect::Recent::kBudgetMinus, Protect::Recent::kBudgetOver});
  protect.recent = OneOf<int32_t>(random, {0, 1, 4, 32});
  if (protect.recent_kind == Protect::Recent::kBudgetOver) protect.recent = OneOf<int32_t>(random, {1, 2, 3, 100});
  if (protect.recent_kind == Protect::Recent::kBudgetMinus) {  // k - recent and the sinks fit into k
    protect.sinks = std::min(protect.sinks, protect.recent);
  }
  if (random() % 4 == 0) protect.classes = OneOf<int32_t>(random, {0, 1}) == 0 ? std::vector{1} : std::vector{2, 255};
  if (random() % 3 == 0) protect.mass_ppm = OneOf(random, kShares);
  return protect;
}

Policy Draw(Random& random, int32_t layers, int32_t kv_heads) {
  Policy policy;
  policy.name = "random";
  policy.signal = DrawSignal(random);
  policy.group.kind = OneOf(random, kGroups);
  if (random() % 4 == 0) policy.group.span = Group::Span::kLayer;
  if (random() % 4 == 0) policy.group.place = Group::Place::kAfterRefine;
  if (policy.signal.windowed()) {
    policy.window = OneOf<int32_t>(random, {0, 1, 4, 7, 32, 100});
    policy.accumulate = DrawAccumulate(random);
  }
  for (int32_t i = Between(random, 0, 3); i > 0; --i) policy.refine.push_back(DrawRefinement(random));
  policy.protect = DrawProtect(random);
  policy.layer.kind = OneOf(random, kLayers);
  if (policy.layer.kind == LayerKind::kPyramid)
    policy.layer.beta_ppm = OneOf<int64_t>(random, {kPpm, 1'500'000, 20 * kPpm});
  if (policy.layer.kind == LayerKind::kTable) {
    for (int32_t l = 0; l < layers; ++l) policy.layer.table_ppm.push_back(OneOf(random, kWeights));
  }
  policy.head.kind = OneOf(random, kHeads);
  if (policy.head.kind == HeadKind::kAdaFloor || policy.head.kind == HeadKind::kAdaBlend) {
    policy.head.alpha_ppm = OneOf(random, kShares);
  }
  if (policy.head.kind == HeadKind::kCheapest) policy.head.mass_ppm = OneOf(random, kShares);
  if (policy.head.kind == HeadKind::kSplit) policy.head.full_heads = Between(random, 1, 5);
  for (int32_t l = 0; policy.head.kind == HeadKind::kTable && l < layers; ++l) {
    policy.head.table_ppm.emplace_back();
    for (int32_t h = 0; h < kv_heads; ++h) policy.head.table_ppm.back().push_back(OneOf(random, kShares));
  }
  policy.select.kind = OneOf(random, kSelects);
  if (policy.select.kind == SelectKind::kTopKRandom) policy.select.seed = static_cast<uint32_t>(random());
  if (policy.select.kind == SelectKind::kTopKRandom || policy.select.kind == SelectKind::kTwoStage) {
    policy.select.fraction_ppm = OneOf(random, kShares);
  }
  if (policy.select.kind == SelectKind::kTwoLists) policy.select.share_ppm = OneOf(random, kShares);
  return policy;
}

// What a policy is asked to have, so that nothing is rare: a choice that few combinations allow is drawn as often.
using Wish = std::function<bool(const Policy&)>;

std::vector<Wish> MakeWishes() {
  std::vector<Wish> wishes;
  for (const auto kind : kSignals) wishes.push_back([kind](const Policy& p) { return p.signal.kind == kind; });
  for (const auto kind : kAccumulates) {
    wishes.push_back([kind](const Policy& p) { return p.signal.windowed() && p.accumulate.kind == kind; });
  }
  for (const auto kind : kGroups) wishes.push_back([kind](const Policy& p) { return p.group.kind == kind; });
  for (const auto kind : kRefinements) {
    wishes.push_back([kind](const Policy& p) {
      return std::any_of(p.refine.begin(), p.refine.end(), [kind](const Refinement& r) { return r.kind == kind; });
    });
  }
  for (const auto scale : kScales) {
    wishes.push_back([scale](const Policy& p) {
      return std::any_of(p.refine.begin(), p.refine.end(), [scale](const Refinement& r) {
        return r.kind == RefineKind::kValuePrior && r.scale == scale;
      });
    });
  }
  for (const auto kind : kLayers) wishes.push_back([kind](const Policy& p) { return p.layer.kind == kind; });
  for (const auto kind : kHeads) wishes.push_back([kind](const Policy& p) { return p.head.kind == kind; });
  for (const auto kind : kSelects) wishes.push_back([kind](const Policy& p) { return p.select.kind == kind; });
  wishes.push_back([](const Policy& p) { return p.signal.over == Signal::Over::kCandidates; });
  wishes.push_back([](const Policy& p) { return p.accumulate.row_pool > 1; });
  wishes.push_back([](const Policy& p) { return p.group.span == Group::Span::kLayer; });
  wishes.push_back([](const Policy& p) { return p.group.place == Group::Place::kAfterRefine; });
  wishes.push_back([](const Policy& p) { return p.protect.mass_ppm > 0; });
  wishes.push_back([](const Policy& p) { return !p.protect.classes.empty(); });
  return wishes;
}

}  // namespace

Policy RandomPolicy(Random& random, int32_t layers, int32_t kv_heads) {
  static const auto* const wishes = new std::vector<Wish>(MakeWishes());
  const Wish& wish = (*wishes)[random() % wishes->size()];
  Policy policy = Draw(random, layers, kv_heads);
  while (!wish(policy) || !Validate(policy).ok()) policy = Draw(random, layers, kv_heads);
  return policy;
}

}  // namespace kvsteward::engine
