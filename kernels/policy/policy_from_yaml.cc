// Policies from YAML. A stage is the name of its kind (`accumulate: sum`) or that name with its fields (`head:
// {ada_floor: {alpha: 0.2}}`). What is absent has the default of policy.h.
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <concepts>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "kernels/policy/decimal.h"
#include "kernels/policy/fields.h"
#include "kernels/policy/names.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {
namespace {

constexpr size_t kMaxTextBytes = 64 * 1024;
constexpr int kMaxDepth = 8;
constexpr int kPpmDecimals = 6;

template <class S>
concept Kinded = std::is_enum_v<decltype(S::kind)>;

absl::Status WrongAt(const YAML::Mark& mark, const std::string& text) {
  return absl::InvalidArgumentError("policy line " + std::to_string(mark.line + 1) + ": " + text);
}

// Looks at a text before nodes are made of it: one document, no tags, which would mean nothing, and no aliases. These
// repeat what they name, so that a short text could make a huge policy; without them its size bounds everything.
class Guard : public YAML::EventHandler {
 public:
  const absl::Status& status() const { return status_; }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ > 1) Refuse(mark, "a second document begins; a policy is exactly one mapping");
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override { Look(mark, anchor); }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override { Look(mark, anchor); }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, const std::string&) override {
    Look(mark, anchor, tag);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    Descend(mark, anchor, tag);
  }
  void OnSequenceEnd() override { --depth_; }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    Descend(mark, anchor, tag);
  }
  void OnMapEnd() override { --depth_; }

 private:
  // The parser gives what has no tag "?", and a quoted text "!".
  void Look(const YAML::Mark& mark, YAML::anchor_t anchor, const std::string& tag = "?") {
    if (anchor != YAML::NullAnchor) Refuse(mark, "a policy has no anchors and aliases; write the value itself");
    if (tag != "?" && tag != "!") Refuse(mark, "a policy has no tags; write the value alone");
  }
  void Descend(const YAML::Mark& mark, YAML::anchor_t anchor, const std::string& tag) {
    Look(mark, anchor, tag);
    if (++depth_ > kMaxDepth) Refuse(mark, "nested deeper than a policy's stages are; compare `kvsteward policies`");
  }
  void Refuse(const YAML::Mark& mark, const std::string& text) {
    if (status_.ok()) status_ = WrongAt(mark, text);
  }

  int documents_ = 0;
  int depth_ = 0;
  absl::Status status_;
};

// Reads nodes into fields. The first thing that is wrong becomes the status; what follows it is not looked at.
class Reader {
 public:
  using Values = std::map<std::string, std::function<void(const YAML::Node&)>>;

  const absl::Status& status() const { return status_; }

  Policy ReadPolicy(const YAML::Node& root) {
    Policy p;
    const auto to = [this](const char* what, auto* value) {
      return [this, what, value](const YAML::Node& node) { Read(node, what, value); };
    };
    Mapping(root, "policy",
            {{"name", to("name", &p.name)},
             {"window", [&](const YAML::Node& node) { Window(node, &p.window); }},
             {"signal", to("signal", &p.signal)},
             {"accumulate", to("accumulate", &p.accumulate)},
             {"group", to("group", &p.group)},
             {"refine", to("refine", &p.refine)},
             {"protect", [&](const YAML::Node& node) { Fields(node, "protect", "protect", &p.protect); }},
             {"layer", to("layer", &p.layer)},
             {"head", to("head", &p.head)},
             {"select", to("select", &p.select)}});
    return p;
  }

 private:
  void Refuse(const YAML::Node& node, const std::string& text) {
    if (status_.ok()) status_ = WrongAt(node.IsNull() ? key_ : node.Mark(), text);
  }

  // A mapping with these keys, each at most once.
  void Mapping(const YAML::Node& node, const std::string& what, const Values& values) {
    std::string keys;
    for (const auto& [key, read] : values) keys += (keys.empty() ? "" : ", ") + key;
    if (!node.IsMap()) return Refuse(node, what + " must be a mapping with the keys " + keys);
    std::set<std::string> seen;
    for (const auto& entry : node) {
      std::string key;
      Read(entry.first, "a key of " + what, &key);
      if (!status_.ok()) return;
      const auto value = values.find(key);
      if (value == values.end()) {
        return Refuse(entry.first, what + " has no key " + Quoted(key) + "; its keys are " + keys);
      }
      if (!seen.insert(key).second) return Refuse(entry.first, what + " has the key '" + key + "' twice; keep one");
      key_ = entry.first.Mark();
      value->second(entry.second);
      if (!status_.ok()) return;
    }
  }

  // A mapping with the fields that this stage has.
  template <class S>
  void Fields(const YAML::Node& node, const std::string& stage_name, const std::string& what, S* stage) {
    Values values;
    VisitFields(*stage, [&](const Field& field, auto member) {
      if (!field.has) return;
      values[field.name] = [this, stage, member, field, name = stage_name + "." + field.name](const YAML::Node& value) {
        field_ = field;
        Read(value, name, &std::invoke(member, *stage));
      };
    });
    if (values.empty()) return Refuse(node, what + " has no fields; write the name alone");
    Mapping(node, what, values);
  }

  // A stage: the name of a kind, or a mapping from it to the fields that this kind has.
  template <Kinded S>
  void Read(const YAML::Node& node, const std::string& what, S* stage) {
    if (node.IsScalar()) return Read(node, what, &stage->kind);
    if (!node.IsMap() || node.size() != 1) {
      return Refuse(node, what + " must be one of " + AllNames<decltype(stage->kind)>() +
                              ", alone or as a mapping to its fields");
    }
    const auto entry = *node.begin();
    Read(entry.first, what, &stage->kind);
    if (status_.ok()) Fields(entry.second, what, what + " " + NameOf(stage->kind), stage);
  }

  template <class T>
  void Read(const YAML::Node& node, const std::string& what, std::vector<T>* list) {
    if (!node.IsSequence()) return Refuse(node, what + " must be a list");
    for (const YAML::Node& item : node) {
      T value{};
      Read(item, what + "[" + std::to_string(list->size()) + "]", &value);
      if (!status_.ok()) return;
      list->push_back(std::move(value));
    }
  }

  void Read(const YAML::Node& node, const std::string& what, std::string* text) {
    if (!node.IsScalar()) return Refuse(node, what + " must be a single value");
    *text = node.Scalar();
  }

  template <class E>
  requires std::is_enum_v<E>
  void Read(const YAML::Node& node, const std::string& what, E* value) {
    Single(node, what, "one of " + AllNames<E>(), value, Named<E>);
  }

  template <std::integral I>
  requires(sizeof(I) == 4) void Read(const YAML::Node& node, const std::string& what, I* value) {
    Single(node, what, "a whole number below 2^" + std::to_string(std::is_signed_v<I> ? 31 : 32), value, Integer<I>);
  }

  // Decimals, in ppm.
  void Read(const YAML::Node& node, const std::string& what, int64_t* ppm) {
    Single(node, what, "a plain decimal such as 0.5, " + RangeOf<int64_t>(field_) + ", with at most 6 decimals", ppm,
           [](const std::string& text) { return ParseDecimal(text, kPpmDecimals); });
  }

  // protect.recent: `32`, `k - 4` or `k / 2`.
  void Read(const YAML::Node& node, const std::string& what, Protect* protect) {
    Single(node, what, "tokens (32), the budget less tokens (k - 4) or a part of the budget (k / 2)", &protect->recent,
           [protect](std::string_view text) {
             using Recent = Protect::Recent;
             protect->recent_kind = Recent::kTokens;
             if (!text.starts_with('k')) return Integer<int32_t>(text);
             const auto skip_one = [&text] {  // and the spaces behind it
               text.remove_prefix(1);
               text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
             };
             skip_one();
             if (!text.starts_with('-') && !text.starts_with('/')) return std::optional<int32_t>();
             protect->recent_kind = text.starts_with('-') ? Recent::kBudgetMinus : Recent::kBudgetOver;
             skip_one();
             return Integer<int32_t>(text);
           });
  }

  // Rows, or `all` of them.
  void Window(const YAML::Node& node, int32_t* window) {
    Single(node, "window", "a number of rows from 1 to 2147483647, or 'all'", window, [](const std::string& text) {
      if (text == "all") return std::optional(0);
      const std::optional<int32_t> rows = Integer<int32_t>(text);
      return rows.value_or(0) > 0 ? rows : std::nullopt;
    });
  }

  // A scalar that `parse` understands.
  template <class T, class Parse>
  void Single(const YAML::Node& node, const std::string& what, const std::string& allowed, T* value, Parse parse) {
    std::string text;
    Read(node, what, &text);
    if (!status_.ok()) return;
    const std::optional<T> parsed = parse(text);
    if (!parsed) return Refuse(node, what + " is " + Quoted(text) + "; it must be " + allowed);
    *value = *parsed;
  }

  template <class I>
  static std::optional<I> Integer(std::string_view text) {
    I value = 0;
    const char* end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    if (error != std::errc() || stop != end) return std::nullopt;
    return value;
  }

  Field field_;     // of the stage's number that is being read
  YAML::Mark key_;  // of what is being read: a value that is not there has no place of its own
  absl::Status status_;
};

absl::Status LookOver(const std::string& text) {
  std::istringstream stream(text);
  YAML::Parser parser(stream);
  Guard guard;
  // The parser finds ever more empty documents behind some texts, so it is not asked beyond the second.
  while (guard.status().ok() && parser.HandleNextDocument(guard)) {
  }
  return guard.status();
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
    if (absl::Status status = LookOver(text); !status.ok()) return status;
    policy = reader.ReadPolicy(YAML::Load(text));
  } catch (const YAML::Exception& e) {
    return WrongAt(e.mark, "not valid YAML, " + e.msg);
  }
  if (!reader.status().ok()) return reader.status();
  if (absl::Status status = Validate(policy); !status.ok()) return status;
  return policy;
}

}  // namespace kvsteward::engine
