#include "tests/kernels/mirror.h"

namespace kvsteward::engine {
namespace {

double FromPpm(int64_t ppm) { return static_cast<double>(ppm) / 1e6; }

reference::Signal Mirror(Signal::Kind kind) {
  switch (kind) {
    case Signal::Kind::kNone:
      return reference::Signal::kNone;
    case Signal::Kind::kSubmitted:
      return reference::Signal::kSubmitted;
    case Signal::Kind::kSoftmax:
      return reference::Signal::kSoftmax;
    case Signal::Kind::kStepGainSoftmax:
      return reference::Signal::kStepGainSoftmax;
    case Signal::Kind::kPower:
      return reference::Signal::kPower;
    case Signal::Kind::kSoftmax1:
      return reference::Signal::kSoftmax1;
    case Signal::Kind::kKeyDifference:
      return reference::Signal::kKeyDifference;
    case Signal::Kind::kExpected:
      return reference::Signal::kExpected;
  }
  return {};
}

reference::Accumulate Mirror(Accumulate::Kind kind) {
  switch (kind) {
    case Accumulate::Kind::kSum:
      return reference::Accumulate::kSum;
    case Accumulate::Kind::kMean:
      return reference::Accumulate::kMean;
    case Accumulate::Kind::kMax:
      return reference::Accumulate::kMax;
    case Accumulate::Kind::kMeanVar:
      return reference::Accumulate::kMeanVar;
    case Accumulate::Kind::kRunning:
      return reference::Accumulate::kRunning;
  }
  return {};
}

reference::Reduce Mirror(Group::Kind kind) {
  switch (kind) {
    case Group::Kind::kMean:
      return reference::Reduce::kMean;
    case Group::Kind::kMax:
      return reference::Reduce::kMax;
    case Group::Kind::kSum:
      return reference::Reduce::kSum;
  }
  return {};
}

reference::Refinement Mirror(const Refinement& refinement) {
  reference::Refinement mirror;
  mirror.pool = refinement.pool;
  mirror.padded = refinement.edge == Refinement::Edge::kPadded;
  switch (refinement.kind) {
    case Refinement::Kind::kMaxPool:
      mirror.kind = reference::Refine::kMaxPool;
      break;
    case Refinement::Kind::kAvgPool:
      mirror.kind = mirror.padded ? reference::Refine::kAvgPoolPadded : reference::Refine::kAvgPoolValid;
      break;
    case Refinement::Kind::kValuePrior:
      mirror.kind = reference::Refine::kValuePrior;
      break;
    case Refinement::Kind::kValueScale:
      mirror.kind = reference::Refine::kValueScale;
      break;
    case Refinement::Kind::kClampToMean:
      mirror.kind = reference::Refine::kClampToMean;
      break;
    case Refinement::Kind::kMassRatio:
      mirror.kind = reference::Refine::kMassRatio;
      break;
  }
  mirror.norm = refinement.norm == Norm::kL2Squared ? reference::Norm::kL2Squared
                : refinement.norm == Norm::kL2      ? reference::Norm::kL2
                                                    : reference::Norm::kL1;
  switch (refinement.scale) {
    case Refinement::Scale::kMax:
      mirror.scale = reference::Scale::kMax;
      break;
    case Refinement::Scale::kMean:
      mirror.scale = reference::Scale::kMean;
      break;
    case Refinement::Scale::kNone:
      mirror.scale = reference::Scale::kNone;
      break;
    case Refinement::Scale::kHeads:
      mirror.scale = reference::Scale::kHeads;
      break;
  }
  return mirror;
}

reference::Recent Mirror(Protect::Recent kind) {
  switch (kind) {
    case Protect::Recent::kTokens:
      return reference::Recent::kTokens;
    case Protect::Recent::kBudgetMinus:
      return reference::Recent::kBudgetMinus;
    case Protect::Recent::kBudgetOver:
      return reference::Recent::kBudgetOver;
  }
  return {};
}

reference::Layer Mirror(LayerBudget::Kind kind) {
  switch (kind) {
    case LayerBudget::Kind::kUniform:
      return reference::Layer::kUniform;
    case LayerBudget::Kind::kTable:
      return reference::Layer::kTable;
    case LayerBudget::Kind::kPyramid:
      return reference::Layer::kPyramid;
    case LayerBudget::Kind::kEntropy:
      return reference::Layer::kEntropy;
    case LayerBudget::Kind::kEqualMass:
      return reference::Layer::kEqualMass;
    case LayerBudget::Kind::kGlobal:
      return reference::Layer::kGlobal;
  }
  return {};
}

reference::Head Mirror(HeadBudget::Kind kind) {
  switch (kind) {
    case HeadBudget::Kind::kUniform:
      return reference::Head::kUniform;
    case HeadBudget::Kind::kAdaFloor:
      return reference::Head::kAdaFloor;
    case HeadBudget::Kind::kAdaBlend:
      return reference::Head::kAdaBlend;
    case HeadBudget::Kind::kTable:
      return reference::Head::kTable;
    case HeadBudget::Kind::kCheapest:
      return reference::Head::kCheapest;
    case HeadBudget::Kind::kSplit:
      return reference::Head::kSplit;
  }
  return {};
}

reference::Select Mirror(Select::Kind kind) {
  switch (kind) {
    case Select::Kind::kTopK:
      return reference::Select::kTopK;
    case Select::Kind::kTopKRandom:
      return reference::Select::kTopKRandom;
    case Select::Kind::kTwoStage:
      return reference::Select::kTwoStage;
    case Select::Kind::kTwoLists:
      return reference::Select::kTwoLists;
    case Select::Kind::kBlock:
      return reference::Select::kBlock;
  }
  return {};
}

}  // namespace

reference::Policy MirrorOf(const Policy& policy) {
  reference::Policy mirror;
  mirror.window = policy.window;
  mirror.signal = Mirror(policy.signal.kind);
  mirror.g_min = FromPpm(policy.signal.g_min_ppm);
  mirror.exponent = FromPpm(policy.signal.exponent_ppm);
  mirror.over_candidates = policy.signal.over == Signal::Over::kCandidates;
  mirror.accumulate = Mirror(policy.accumulate.kind);
  mirror.gamma = FromPpm(policy.accumulate.gamma_ppm);
  mirror.decay = FromPpm(policy.accumulate.decay_ppm);
  mirror.row_pool = policy.accumulate.row_pool;
  mirror.group = Mirror(policy.group.kind);
  mirror.span_layer = policy.group.span == Group::Span::kLayer;
  mirror.after_refine = policy.group.place == Group::Place::kAfterRefine;
  for (const Refinement& r : policy.refine) mirror.refine.push_back(Mirror(r));
  mirror.sinks = policy.protect.sinks;
  mirror.recent_kind = Mirror(policy.protect.recent_kind);
  mirror.recent = policy.protect.recent;
  mirror.classes = policy.protect.classes;
  mirror.pinned_mass_ppm = policy.protect.mass_ppm;
  mirror.layer = Mirror(policy.layer.kind);
  mirror.layer_table = policy.layer.table_ppm;
  mirror.beta = FromPpm(policy.layer.beta_ppm);
  mirror.head = Mirror(policy.head.kind);
  mirror.alpha_ppm = policy.head.alpha_ppm;
  mirror.head_table = policy.head.table_ppm;
  mirror.enough_mass_ppm = policy.head.mass_ppm;
  mirror.full_heads = policy.head.full_heads;
  mirror.select = Mirror(policy.select.kind);
  mirror.fraction_ppm = policy.select.fraction_ppm;
  mirror.seed = policy.select.seed;
  mirror.share_ppm = policy.select.share_ppm;
  return mirror;
}

}  // namespace kvsteward::engine
