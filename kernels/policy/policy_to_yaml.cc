// Policies to YAML, in the one form that equal policies share: stages and fields that the signal and the kinds do not
// have are left out, and so are options with their default.
#include <yaml-cpp/yaml.h>

#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/policy/decimal.h"
#include "kernels/policy/fields.h"
#include "kernels/policy/names.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {
namespace {

class Printer {
 public:
  std::string Print(const Policy& p) {
    const bool windowed = p.signal.windowed();
    const bool grouped = windowed || p.signal.kind == Signal::Kind::kExpected || p.group.span == Group::Span::kLayer;
    out_ << YAML::BeginMap;
    Key("name") << p.name;
    if (windowed) Key("window") << (p.window == 0 ? "all" : std::to_string(p.window));
    Stage("signal", p.signal);
    if (windowed) Stage("accumulate", p.accumulate);
    if (grouped) Stage("group", p.group);
    if (p.signal.kind != Signal::Kind::kNone) Refinements(p.refine);
    Key("protect");
    Fields(p.protect);
    Stage("layer", p.layer);
    Stage("head", p.head);
    Stage("select", p.select);
    out_ << YAML::EndMap;
    return std::string(out_.c_str()) + "\n";
  }

 private:
  YAML::Emitter& Key(const char* name) { return out_ << YAML::Key << name << YAML::Value; }

  template <class S>
  void Stage(const char* name, const S& stage) {
    Key(name) << YAML::Flow;
    Kind(stage);
  }

  void Refinements(const std::vector<Refinement>& refine) {
    Key("refine") << (refine.empty() ? YAML::Flow : YAML::Block) << YAML::BeginSeq;
    for (const Refinement& refinement : refine) Kind(refinement);
    out_ << YAML::EndSeq;
  }

  // `name`, or `name: {fields}` as a mapping.
  template <class S>
  void Kind(const S& stage) {
    bool bare = true;
    VisitFields(stage, [&](const Field& field, auto member) { bare = bare && !Prints(stage, field, member); });
    if (bare) {
      out_ << NameOf(stage.kind);
      return;
    }
    out_ << YAML::BeginMap << YAML::Key << NameOf(stage.kind) << YAML::Value;
    Fields(stage);
    out_ << YAML::EndMap;
  }

  template <class S>
  void Fields(const S& stage) {
    out_ << YAML::Flow << YAML::BeginMap;
    VisitFields(stage, [&](const Field& field, auto member) {
      if (!Prints(stage, field, member)) return;
      Key(field.name);
      Write(std::invoke(member, stage));
    });
    out_ << YAML::EndMap;
  }

  template <class S, class Member>
  static bool Prints(const S& stage, const Field& field, Member member) {
    static const S defaults;
    return field.has && !(field.option && std::invoke(member, stage) == std::invoke(member, defaults));
  }

  void Write(int32_t value) { out_ << value; }
  void Write(uint32_t value) { out_ << value; }
  void Write(int64_t ppm) { out_ << PrintDecimal(ppm, 6); }

  template <class E>
  requires std::is_enum_v<E>
  void Write(E value) { out_ << NameOf(value); }

  template <class T>
  void Write(const std::vector<T>& list) {
    out_ << YAML::Flow << YAML::BeginSeq;
    for (const T& value : list) Write(value);
    out_ << YAML::EndSeq;
  }

  void Write(const Protect& protect) { out_ << RecentOf(protect); }

  YAML::Emitter out_;
};

}  // namespace

std::string PolicyToYaml(const Policy& policy) { return Printer().Print(policy); }

}  // namespace kvsteward::engine
