// Which policies can work. Each message names the stage, the field, its value and what is allowed.
#include <algorithm>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "kernels/policy/combinations.h"
#include "kernels/policy/decimal.h"
#include "kernels/policy/fields.h"
#include "kernels/policy/names.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {
namespace {

constexpr size_t kMaxName = 64;
constexpr size_t kMaxRefine = 16;
// The text of the largest tables is still one that PolicyFromYaml reads.
constexpr size_t kMaxTableLayers = 1024;
constexpr size_t kMaxFractions = 4096;

// Names become labels of metrics and of reports.
bool IsName(const std::string& name) {
  return !name.empty() && name.size() <= kMaxName && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
  });
}

std::string Text(int64_t ppm) { return ppm < 0 ? "negative" : PrintDecimal(ppm, 6); }
std::string Text(int32_t value) { return std::to_string(value); }
std::string Text(uint32_t value) { return std::to_string(value); }
template <class E>
requires std::is_enum_v<E> std::string Text(E value) { return NameOf(value); }
template <class T>
std::string Text(const std::vector<T>& list) {
  return "a list of " + std::to_string(list.size());
}
std::string Text(const Protect& protect) { return RecentOf(protect); }

// Whether a field's value is within its range; enumerators always are.
template <class T>
requires std::is_arithmetic_v<T> absl::Status Check(const Field& field, const std::string& name, T value) {
  if (value >= field.least && value <= field.most && (!field.odd || value % 2 == 1)) return absl::OkStatus();
  return WrongField(name, Text(value), (field.odd ? "odd, " : "") + RangeOf<T>(field));
}
template <class E>
requires std::is_enum_v<E> absl::Status Check(const Field&, const std::string&, E) { return absl::OkStatus(); }
template <class T>
absl::Status Check(const Field& field, const std::string& name, const std::vector<T>& list) {
  for (size_t i = 0; i < list.size(); ++i) {
    if (absl::Status s = Check(field, name + "[" + std::to_string(i) + "]", list[i]); !s.ok()) return s;
  }
  return absl::OkStatus();
}
absl::Status Check(const Field&, const std::string& name, const Protect& protect) {
  switch (protect.recent_kind) {
    case Protect::Recent::kTokens:
      if (protect.recent < 0) return WrongField(name, Text(protect), "at least 0");
      break;
    case Protect::Recent::kBudgetMinus:
      if (protect.recent < 0) return WrongField(name, Text(protect), "k - N with N at least 0");
      break;
    case Protect::Recent::kBudgetOver:
      if (protect.recent < 1) return WrongField(name, Text(protect), "k / N with N at least 1");
      break;
  }
  return absl::OkStatus();
}

// Each field of a stage alone. `kind`: how a message calls the stage.
template <class S>
absl::Status ValidateFields(const std::string& stage_name, const std::string& kind, const S& stage) {
  absl::Status status;
  VisitFields(stage, [&](const Field& field, auto member) {
    if (!status.ok()) return;
    const std::string name = stage_name + "." + field.name;
    const auto& value = std::invoke(member, stage);
    if (field.has) {
      status = Check(field, name, value);
    } else if (value != std::invoke(member, S())) {
      status = WrongField(name, Text(value), "absent: " + kind + " has no such field");
    }
  });
  return status;
}

template <class S>
absl::Status ValidateStage(const std::string& name, const S& stage) {
  return ValidateFields(name, name + " " + NameOf(stage.kind), stage);
}

absl::Status ValidateRefine(const std::vector<Refinement>& refine) {
  if (refine.size() > kMaxRefine) {
    return WrongField("refine", Text(refine),
                      "at most " + std::to_string(kMaxRefine) + " long: each entry reads every score");
  }
  for (size_t i = 0; i < refine.size(); ++i) {
    if (absl::Status s = ValidateStage("refine[" + std::to_string(i) + "]", refine[i]); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::Status ValidateProtect(const Protect& protect) {
  const std::vector<int32_t>& classes = protect.classes;
  for (size_t i = 1; i < classes.size(); ++i) {
    if (classes[i] <= classes[i - 1]) {
      return WrongField("protect.classes[" + std::to_string(i) + "]", Text(classes[i]),
                        "above the class before it, " + Text(classes[i - 1]));
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateTables(const Policy& policy) {
  const std::vector<int64_t>& weights = policy.layer.table_ppm;
  if (policy.layer.kind == LayerBudget::Kind::kTable && (weights.empty() || weights.size() > kMaxTableLayers)) {
    return WrongField("layer.weights", Text(weights),
                      "one of 1 to " + std::to_string(kMaxTableLayers) + " numbers, a layer each");
  }
  if (policy.head.kind != HeadBudget::Kind::kTable) return absl::OkStatus();
  const std::vector<std::vector<int64_t>>& fractions = policy.head.table_ppm;
  if (fractions.empty() || fractions.size() > kMaxTableLayers) {
    return WrongField("head.fractions", Text(fractions),
                      "one of 1 to " + std::to_string(kMaxTableLayers) + " lists, a layer each");
  }
  for (size_t l = 0; l < fractions.size(); ++l) {
    if (fractions[l].empty() || fractions[l].size() != fractions[0].size()) {
      return WrongField("head.fractions[" + std::to_string(l) + "]", Text(fractions[l]),
                        "one of as many numbers as every layer has kv heads, at least 1");
    }
    if (fractions.size() * fractions[l].size() > kMaxFractions) {
      return WrongField("head.fractions", Text(fractions) + " times " + std::to_string(fractions[l].size()),
                        "of at most " + std::to_string(kMaxFractions) + " numbers");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Validate(const Policy& policy) {
  if (!IsName(policy.name)) {
    return WrongField("name", Quoted(policy.name), "1 to 64 lower-case letters, digits, '-', '_' or '.'");
  }
  if (policy.window < 0) return WrongField("window", Text(policy.window), "at least 1, or all");
  for (const absl::Status& status :
       {ValidateStage("signal", policy.signal), ValidateStage("accumulate", policy.accumulate),
        ValidateStage("group", policy.group), ValidateRefine(policy.refine),
        ValidateFields("protect", "protect", policy.protect), ValidateProtect(policy.protect),
        ValidateStage("layer", policy.layer), ValidateStage("head", policy.head),
        ValidateStage("select", policy.select), ValidateTables(policy)}) {
    if (!status.ok()) return status;
  }
  return ValidateCombination(policy);
}

}  // namespace kvsteward::engine
