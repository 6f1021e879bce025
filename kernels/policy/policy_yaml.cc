// Policies as YAML. A stage is a bare name (`accumulate: sum`) or a name with its fields (`head: {ada_floor: {alpha:
// 0.2}}`). A stage that is absent has the default of policy.h.
#include <yaml-cpp/yaml.h>

#include <charconv>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "kernels/policy/decimal.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {
namespace {

constexpr size_t kMaxTextBytes = 64 * 1024;
constexpr int kPpmDecimals = 6;

// Names of enumerators, in both directions.
template <class E>
using Names = std::map<std::string, E>;

const Names<Signal::Kind> kSignals = {{"none", Signal::Kind::kNone},
                                      {"softmax", Signal::Kind::kSoftmax},
                                      {"sg_softmax", Signal::Kind::kStepGainSoftmax}};
const Names<Accumulate> kAccumulates = {
    {"sum", Accumulate::kSum}, {"mean", Accumulate::kMean}, {"max", Accumulate::kMax}};
const Names<Group> kGroups = {{"mean", Group::kMean}, {"max", Group::kMax}, {"sum", Group::kSum}};
const Names<Refinement::Kind> kRefinements = {{"max_pool", Refinement::Kind::kMaxPool},
                                              {"avg_pool", Refinement::Kind::kAvgPool},
                                              {"value_prior", Refinement::Kind::kValuePrior},
                                              {"clamp_to_mean", Refinement::Kind::kClampToMean}};
const Names<Refinement::Edge> kEdges = {{"padded", Refinement::Edge::kPadded}, {"valid", Refinement::Edge::kValid}};
const Names<Refinement::Norm> kNorms = {{"l2sq", Refinement::Norm::kL2Squared}, {"l2", Refinement::Norm::kL2}};
const Names<Refinement::Scale> kScales = {
    {"max", Refinement::Scale::kMax}, {"mean", Refinement::Scale::kMean}, {"none", Refinement::Scale::kNone}};
const Names<LayerBudget> kLayers = {{"uniform", LayerBudget::kUniform}};
const Names<HeadBudget::Kind> kHeads = {{"uniform", HeadBudget::Kind::kUniform},
                                        {"ada_floor", HeadBudget::Kind::kAdaFloor},
                                        {"ada_blend", HeadBudget::Kind::kAdaBlend}};
const Names<Select> kSelects = {{"top_k", Select::kTopK}};

template <class E>
const std::string& NameOf(const Names<E>& names, E value) {
  return std::find_if(names.begin(), names.end(), [&](const auto& entry) { return entry.second == value; })->first;
}

}  // namespace
}  // namespace kvsteward::engine
