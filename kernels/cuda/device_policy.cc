#include "kernels/cuda/device_policy.h"

#include <algorithm>

namespace kvsteward::engine {
namespace cuda {
namespace {

bool Refines(const Refinement& refinement) {
  if (refinement.kind == Refinement::Kind::kMassRatio || refinement.scale == Refinement::Scale::kHeads) return false;
  return refinement.pool <= kMostPool;
}

RefineStep StepOf(const Refinement& refinement) {
  RefineStep step;
  switch (refinement.kind) {
    case Refinement::Kind::kMaxPool:
      step.kind = RefineStep::Kind::kMaxPool;
      break;
    case Refinement::Kind::kAvgPool:
      step.kind = RefineStep::Kind::kAvgPool;
      break;
    case Refinement::Kind::kValuePrior:
      step.kind = RefineStep::Kind::kValuePrior;
      break;
    case Refinement::Kind::kValueScale:
      step.kind = RefineStep::Kind::kValueScale;
      break;
    case Refinement::Kind::kClampToMean:
    case Refinement::Kind::kMassRatio:  // no kernel
      step.kind = RefineStep::Kind::kClampToMean;
      break;
  }
  step.pool = refinement.pool;
  step.padded = refinement.edge == Refinement::Edge::kPadded;
  step.norm = refinement.norm == Norm::kL2 ? RefineStep::Norm::kRootOfStored : RefineStep::Norm::kAsStored;
  switch (refinement.scale) {
    case Refinement::Scale::kMax:
    case Refinement::Scale::kHeads:  // no kernel
      step.scale = RefineStep::Scale::kMax;
      break;
    case Refinement::Scale::kMean:
      step.scale = RefineStep::Scale::kMean;
      break;
    case Refinement::Scale::kNone:
      step.scale = RefineStep::Scale::kNone;
      break;
  }
  return step;
}

}  // namespace

bool ScoresOnDevice(const Policy& policy) {
  const Accumulate::Kind accumulate = policy.accumulate.kind;
  const bool plain_sum = accumulate == Accumulate::Kind::kSum ||
                         (policy.running() && policy.accumulate.decay_ppm == kPpm);  // of the rows not yet seen
  return policy.signal.windowed() && policy.signal.over == Signal::Over::kVisible &&
         (plain_sum || accumulate == Accumulate::Kind::kMean || accumulate == Accumulate::Kind::kMax) &&
         policy.accumulate.row_pool == 1 && policy.group.place == Group::Place::kBeforeRefine &&
         policy.select.kind != Select::Kind::kTwoLists;
}

void SetSignal(const Policy& policy, ScoreArgs* args) {
  args->exponent =
      policy.signal.kind == Signal::Kind::kPower ? static_cast<double>(policy.signal.exponent_ppm) / double{kPpm} : 1;
  args->softmax1 = policy.signal.kind == Signal::Kind::kSoftmax1;
  args->mean_rows = policy.accumulate.kind == Accumulate::Kind::kMean;
  args->max_rows = policy.accumulate.kind == Accumulate::Kind::kMax;
  args->mean_heads = policy.group.kind == Group::Kind::kMean;
  args->max_heads = policy.group.kind == Group::Kind::kMax;
}

std::vector<RefineStep> RefineSteps(const Policy& policy) {
  std::vector<RefineStep> steps;
  for (const Refinement& refinement : policy.refine) steps.push_back(StepOf(refinement));
  return steps;
}

SelectRule::Kind RuleKind(const HeadBudget& head) {
  switch (head.kind) {
    case HeadBudget::Kind::kAdaFloor:
      return SelectRule::Kind::kAdaFloor;
    case HeadBudget::Kind::kAdaBlend:
      return SelectRule::Kind::kAdaBlend;
    case HeadBudget::Kind::kTable:
      return SelectRule::Kind::kGiven;
    default:
      return SelectRule::Kind::kUniform;
  }
}

}  // namespace cuda

bool RunsOnDevice(const Policy& policy) {
  const LayerBudget::Kind layer = policy.layer.kind;
  const HeadBudget::Kind head = policy.head.kind;
  return cuda::ScoresOnDevice(policy) && !policy.running() && policy.group.span == Group::Span::kGroup &&
         std::ranges::all_of(policy.refine, cuda::Refines) && policy.protect.classes.empty() &&
         policy.protect.mass_ppm == 0 && layer != LayerBudget::Kind::kEntropy &&
         layer != LayerBudget::Kind::kEqualMass && head != HeadBudget::Kind::kCheapest &&
         head != HeadBudget::Kind::kSplit && policy.select.kind == Select::Kind::kTopK;
}

}  // namespace kvsteward::engine
