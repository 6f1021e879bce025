// What a policy's stages read.
#include "kvsteward/engine/policy.h"

#include <algorithm>

namespace kvsteward::engine {
namespace {

bool ReadsNorm(const Refinement& refinement) {
  return refinement.kind == Refinement::Kind::kValuePrior || refinement.kind == Refinement::Kind::kValueScale;
}

}  // namespace

bool Policy::reads_keys() const {
  return signal.windowed() || signal.kind == Signal::Kind::kKeyDifference || signal.kind == Signal::Kind::kExpected;
}

bool Policy::reads_norms() const { return std::any_of(refine.begin(), refine.end(), ReadsNorm); }

Norm Policy::norm() const {
  const Norm norm = std::find_if(refine.begin(), refine.end(), ReadsNorm)->norm;
  return norm == Norm::kL1 ? Norm::kL1 : Norm::kL2Squared;  // l2 is the root of l2sq
}

bool Policy::reads_values() const { return reads_norms() || head.kind == HeadBudget::Kind::kSplit; }

bool Policy::reads_classes() const { return !protect.classes.empty() || select.kind == Select::Kind::kTwoLists; }

bool Policy::reads_attention() const {
  return protect.mass_ppm > 0 || head.kind == HeadBudget::Kind::kCheapest || head.kind == HeadBudget::Kind::kSplit;
}

}  // namespace kvsteward::engine
