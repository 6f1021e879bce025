// A policy: a composition of the pipeline's stages, as plain data. docs/policies.md describes the mathematics.
// Decimals are integers of 1e-6 (`*_ppm`), so that floors and remainders made from them are integer arithmetic.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kvsteward::engine {

inline constexpr int64_t kPpm = 1'000'000;

// 1: the attention-like signal of each query head.
struct Signal {
  enum class Kind { kNone, kSoftmax, kStepGainSoftmax };
  Kind kind = Kind::kSoftmax;
  int64_t g_min_ppm = 0;  // kStepGainSoftmax: the least gain; 0 is the paper, 1e6 is "never flatter than the model"
  bool operator==(const Signal&) const = default;
};

// 2: over the window's rows.
enum class Accumulate { kSum, kMean, kMax };

// 3: over the query heads of one kv head, before the refinements.
enum class Group { kMean, kMax, kSum };

// 4: applied in order to the candidates' scores.
struct Refinement {
  enum class Kind { kMaxPool, kAvgPool, kValuePrior, kClampToMean };
  enum class Edge { kPadded, kValid };
  enum class Norm { kL2Squared, kL2 };
  enum class Scale { kMax, kMean, kNone };
  Kind kind = Kind::kMaxPool;
  int32_t pool = 1;              // odd width, for kMaxPool, kAvgPool, kValuePrior
  Edge edge = Edge::kValid;      // kAvgPool, kValuePrior
  Norm norm = Norm::kL2Squared;  // kValuePrior
  Scale scale = Scale::kMax;     // kValuePrior
  bool operator==(const Refinement&) const = default;
};

// 5: kept always, outside the competition.
struct Protect {
  enum class Recent { kTokens, kBudgetMinus };
  int32_t sinks = 0;  // tokens with position < sinks
  Recent recent_kind = Recent::kTokens;
  int32_t recent = 0;  // the last `recent` residents (kTokens) or the last k - `recent` of them (kBudgetMinus)
  bool operator==(const Protect&) const = default;
};

// 6: over the layers. 7: over the kv heads of a layer. 8: inside a unit.
enum class LayerBudget { kUniform };
struct HeadBudget {
  enum class Kind { kUniform, kAdaFloor, kAdaBlend };
  Kind kind = Kind::kUniform;
  int64_t alpha_ppm = 200'000;
  bool operator==(const HeadBudget&) const = default;
};
enum class Select { kTopK };

struct Policy {
  std::string name;
  int32_t window = 32;  // query rows used, at most
  Signal signal;
  Accumulate accumulate = Accumulate::kSum;
  Group group = Group::kMean;
  std::vector<Refinement> refine;
  Protect protect;
  LayerBudget layer = LayerBudget::kUniform;
  HeadBudget head;
  Select select = Select::kTopK;

  // Which tensors the stages read.
  bool reads_queries() const { return signal.kind != Signal::Kind::kNone; }
  bool reads_values() const;
  bool operator==(const Policy&) const = default;
};

// INVALID_ARGUMENT naming the stage and field when the composition cannot work.
absl::Status Validate(const Policy& policy);

// The named preset, or NOT_FOUND listing the names there are.
absl::StatusOr<Policy> Preset(std::string_view name);
std::vector<std::string> PresetNames();

// YAML, one mapping per policy; ToYaml(Parse(x)) is canonical. Unknown keys are refused with their line.
absl::StatusOr<Policy> PolicyFromYaml(const std::string& text);
std::string PolicyToYaml(const Policy& policy);

// What a user writes as a budget: "102", "10%" or "64MiB".
struct Budget {
  enum class Kind { kTokens, kPpmOfSeen, kBytes };
  Kind kind = Kind::kTokens;
  int64_t amount = 0;
  bool operator==(const Budget&) const = default;
};
absl::StatusOr<Budget> ParseBudget(std::string_view text);

}  // namespace kvsteward::engine
