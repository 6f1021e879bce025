// Policies as YAML. A stage is a bare name (`accumulate: sum`) or a name with its fields (`head: {ada_floor: {alpha:
// 0.2}}`). A stage that is absent has the default of policy.h.
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

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

const Names<Signal::Kind> kSignals = {
    {"none", Signal::Kind::kNone}, {"softmax", Signal::Kind::kSoftmax}, {"sg_softmax", Signal::Kind::kStepGainSoftmax}};
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

template <class V>
std::string Keys(const std::map<std::string, V>& map) {
  std::string keys;
  for (const auto& [key, value] : map) keys += (keys.empty() ? "" : ", ") + key;
  return keys;
}

// Reads nodes into fields. The first thing that is wrong becomes the status; what follows it is not looked at.
class Reader {
 public:
  using Field = std::function<void(const YAML::Node&)>;
  using Fields = std::map<std::string, Field>;

  const absl::Status& status() const { return status_; }

  void Refuse(const YAML::Node& node, const std::string& text) {
    if (!status_.ok()) return;
    status_ = absl::InvalidArgumentError("policy line " + std::to_string(node.Mark().line + 1) + ": " + text);
  }

  // A mapping with these keys, each at most once.
  void Mapping(const YAML::Node& node, const std::string& what, const Fields& fields) {
    if (!node.IsMap()) return Refuse(node, what + " must be a mapping with the keys " + Keys(fields));
    std::set<std::string> seen;
    for (const auto& entry : node) {
      const std::string key = Text(entry.first, "a key of " + what);
      const auto field = fields.find(key);
      if (field == fields.end()) {
        return Refuse(entry.first, what + " has no key '" + key + "'; its keys are " + Keys(fields));
      }
      if (!seen.insert(key).second) return Refuse(entry.first, what + " has the key '" + key + "' twice; keep one");
      field->second(entry.second);
      if (!status_.ok()) return;
    }
  }

  // A bare name, or a mapping from one name to the fields that this kind has.
  template <class E>
  void Stage(const YAML::Node& node, const std::string& what, const Names<E>& names, E* kind,
             const std::function<Fields(E)>& fields_of) {
    if (node.IsScalar()) return Choice(node, what, names, kind);
    if (!node.IsMap() || node.size() != 1) {
      return Refuse(node, what + " must be one of " + Keys(names) + ", alone or as a mapping to its fields");
    }
    Choice(node.begin()->first, what, names, kind);
    if (!status_.ok()) return;
    const Fields fields = fields_of(*kind);
    if (fields.empty()) return Refuse(node, what + " " + NameOf(names, *kind) + " has no fields; write the name alone");
    Mapping(node.begin()->second, what + " " + NameOf(names, *kind), fields);
  }

  template <class E>
  void Choice(const YAML::Node& node, const std::string& what, const Names<E>& names, E* value) {
    const std::string text = Text(node, what);
    const auto name = names.find(text);
    if (name == names.end()) return Refuse(node, what + " is '" + text + "'; it must be one of " + Keys(names));
    *value = name->second;
  }

  void Integer(const YAML::Node& node, const std::string& what, int32_t* value) {
    const std::string text = Text(node, what);
    if (!ReadInteger(text, value)) Refuse(node, what + " is '" + text + "'; it must be a whole number below 2^31");
  }

  void Decimal(const YAML::Node& node, const std::string& what, int64_t* ppm) {
    const std::string text = Text(node, what);
    const std::optional<int64_t> value = ParseDecimal(text, kPpmDecimals);
    if (!value) return Refuse(node, what + " is '" + text + "'; it must be a number >= 0 with at most 6 decimals");
    *ppm = *value;
  }

  // `32`, or `k - 4`.
  void Recent(const YAML::Node& node, Protect* protect) {
    const std::string text = Text(node, "protect.recent");
    const bool budget_minus = text.starts_with("k - ");
    protect->recent_kind = budget_minus ? Protect::Recent::kBudgetMinus : Protect::Recent::kTokens;
    if (!ReadInteger(budget_minus ? text.substr(4) : text, &protect->recent)) {
      Refuse(node, "protect.recent is '" + text + "'; it must be tokens (32) or the budget less tokens (k - 4)");
    }
  }

  std::string Text(const YAML::Node& node, const std::string& what) {
    if (node.IsScalar()) return node.Scalar();
    Refuse(node, what + " must be a single value");
    return "";
  }

 private:
  static bool ReadInteger(const std::string& text, int32_t* value) {
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, *value);
    return error == std::errc() && stop == end;
  }

  absl::Status status_;
};

Refinement ReadRefinement(Reader& reader, const YAML::Node& node, const std::string& what) {
  Refinement r;
  const Reader::Field pool = [&](const YAML::Node& n) { reader.Integer(n, what + ".pool", &r.pool); };
  const Reader::Field edge = [&](const YAML::Node& n) { reader.Choice(n, what + ".edge", kEdges, &r.edge); };
  const Reader::Field norm = [&](const YAML::Node& n) { reader.Choice(n, what + ".norm", kNorms, &r.norm); };
  const Reader::Field scale = [&](const YAML::Node& n) { reader.Choice(n, what + ".scale", kScales, &r.scale); };
  reader.Stage<Refinement::Kind>(node, what, kRefinements, &r.kind, [&](Refinement::Kind kind) -> Reader::Fields {
    switch (kind) {
      case Refinement::Kind::kMaxPool:
        return {{"pool", pool}};
      case Refinement::Kind::kAvgPool:
        return {{"pool", pool}, {"edge", edge}};
      case Refinement::Kind::kValuePrior:
        return {{"norm", norm}, {"pool", pool}, {"edge", edge}, {"scale", scale}};
      case Refinement::Kind::kClampToMean:
        return {};
    }
    return {};
  });
  return r;
}

Policy ReadPolicy(Reader& reader, const YAML::Node& root) {
  Policy p;
  reader.Mapping(
      root, "policy",
      {{"name", [&](const YAML::Node& n) { p.name = reader.Text(n, "name"); }},
       {"window", [&](const YAML::Node& n) { reader.Integer(n, "window", &p.window); }},
       {"signal",
        [&](const YAML::Node& n) {
          reader.Stage<Signal::Kind>(n, "signal", kSignals, &p.signal.kind, [&](Signal::Kind kind) -> Reader::Fields {
            if (kind != Signal::Kind::kStepGainSoftmax) return {};
            return {{"g_min", [&](const YAML::Node& g) { reader.Decimal(g, "signal.g_min", &p.signal.g_min_ppm); }}};
          });
        }},
       {"accumulate", [&](const YAML::Node& n) { reader.Choice(n, "accumulate", kAccumulates, &p.accumulate); }},
       {"group", [&](const YAML::Node& n) { reader.Choice(n, "group", kGroups, &p.group); }},
       {"refine",
        [&](const YAML::Node& n) {
          if (!n.IsSequence()) return reader.Refuse(n, "refine must be a list");
          for (const YAML::Node& item : n) {
            p.refine.push_back(ReadRefinement(reader, item, "refine[" + std::to_string(p.refine.size()) + "]"));
          }
        }},
       {"protect",
        [&](const YAML::Node& n) {
          reader.Mapping(n, "protect",
                         {{"sinks", [&](const YAML::Node& s) { reader.Integer(s, "protect.sinks", &p.protect.sinks); }},
                          {"recent", [&](const YAML::Node& r) { reader.Recent(r, &p.protect); }}});
        }},
       {"layer", [&](const YAML::Node& n) { reader.Choice(n, "layer", kLayers, &p.layer); }},
       {"head",
        [&](const YAML::Node& n) {
          reader.Stage<HeadBudget::Kind>(n, "head", kHeads, &p.head.kind, [&](HeadBudget::Kind kind) -> Reader::Fields {
            if (kind == HeadBudget::Kind::kUniform) return {};
            return {{"alpha", [&](const YAML::Node& a) { reader.Decimal(a, "head.alpha", &p.head.alpha_ppm); }}};
          });
        }},
       {"select", [&](const YAML::Node& n) { reader.Choice(n, "select", kSelects, &p.select); }}});
  return p;
}

void PrintRefinement(YAML::Emitter& out, const Refinement& r) {
  const std::string& name = NameOf(kRefinements, r.kind);
  if (r.kind == Refinement::Kind::kClampToMean) {
    out << name;
    return;
  }
  out << YAML::BeginMap << YAML::Key << name << YAML::Value << YAML::Flow << YAML::BeginMap;
  if (r.kind == Refinement::Kind::kValuePrior) out << YAML::Key << "norm" << YAML::Value << NameOf(kNorms, r.norm);
  out << YAML::Key << "pool" << YAML::Value << r.pool;
  if (r.kind != Refinement::Kind::kMaxPool) out << YAML::Key << "edge" << YAML::Value << NameOf(kEdges, r.edge);
  if (r.kind == Refinement::Kind::kValuePrior) out << YAML::Key << "scale" << YAML::Value << NameOf(kScales, r.scale);
  out << YAML::EndMap << YAML::EndMap;
}

// `name`, or `{name: {field: value}}`.
void PrintStage(YAML::Emitter& out, const std::string& name, const char* field, int64_t ppm) {
  out << YAML::Flow << YAML::BeginMap << YAML::Key << name << YAML::Value << YAML::BeginMap << YAML::Key << field
      << YAML::Value << PrintDecimal(ppm, kPpmDecimals) << YAML::EndMap << YAML::EndMap;
}

}  // namespace

absl::StatusOr<Policy> PolicyFromYaml(const std::string& text) {
  if (text.size() > kMaxTextBytes) {
    return absl::InvalidArgumentError("policy has " + std::to_string(text.size()) +
                                      " bytes; it must have at most 65536");
  }
  Reader reader;
  Policy policy;
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(text);
    if (documents.size() != 1) {
      return absl::InvalidArgumentError("policy has " + std::to_string(documents.size()) +
                                        " documents; it must be exactly one mapping");
    }
    policy = ReadPolicy(reader, documents.front());
  } catch (const YAML::Exception& e) {
    return absl::InvalidArgumentError("policy line " + std::to_string(e.mark.line + 1) + ": not valid YAML, " + e.msg);
  }
  if (!reader.status().ok()) return reader.status();
  if (absl::Status status = Validate(policy); !status.ok()) return status;
  return policy;
}

std::string PolicyToYaml(const Policy& policy) {
  YAML::Emitter out;
  out << YAML::BeginMap;
  out << YAML::Key << "name" << YAML::Value << policy.name;
  out << YAML::Key << "window" << YAML::Value << policy.window;
  out << YAML::Key << "signal" << YAML::Value;
  if (policy.signal.kind == Signal::Kind::kStepGainSoftmax) {
    PrintStage(out, NameOf(kSignals, policy.signal.kind), "g_min", policy.signal.g_min_ppm);
  } else {
    out << NameOf(kSignals, policy.signal.kind);
  }
  out << YAML::Key << "accumulate" << YAML::Value << NameOf(kAccumulates, policy.accumulate);
  out << YAML::Key << "group" << YAML::Value << NameOf(kGroups, policy.group);
  out << YAML::Key << "refine" << YAML::Value << (policy.refine.empty() ? YAML::Flow : YAML::Block) << YAML::BeginSeq;
  for (const Refinement& refinement : policy.refine) PrintRefinement(out, refinement);
  out << YAML::EndSeq;
  out << YAML::Key << "protect" << YAML::Value << YAML::Flow << YAML::BeginMap;
  out << YAML::Key << "sinks" << YAML::Value << policy.protect.sinks << YAML::Key << "recent" << YAML::Value
      << (policy.protect.recent_kind == Protect::Recent::kBudgetMinus ? "k - " : "") +
             std::to_string(policy.protect.recent);
  out << YAML::EndMap;
  out << YAML::Key << "layer" << YAML::Value << NameOf(kLayers, policy.layer);
  out << YAML::Key << "head" << YAML::Value;
  if (policy.head.kind == HeadBudget::Kind::kUniform) {
    out << NameOf(kHeads, policy.head.kind);
  } else {
    PrintStage(out, NameOf(kHeads, policy.head.kind), "alpha", policy.head.alpha_ppm);
  }
  out << YAML::Key << "select" << YAML::Value << NameOf(kSelects, policy.select);
  out << YAML::EndMap;
  return std::string(out.c_str()) + "\n";
}

}  // namespace kvsteward::engine
