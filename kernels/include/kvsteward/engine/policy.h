// A policy: a composition of the pipeline's stages, as plain data. docs/policies.md describes the mathematics.
// Decimals are integers of 1e-6 (`*_ppm`), so that floors and remainders made from them are integer arithmetic. A field
// that a stage's kind does not have keeps its default.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kvsteward::engine {

inline constexpr int64_t kPpm = 1'000'000;

// 1: what each resident token is worth to each query head (to each kv head: kNone, kSubmitted, kKeyDifference).
struct Signal {
  enum class Kind {
    kNone,             // its position
    kSubmitted,        // what the caller says
    kSoftmax,          // attention
    kStepGainSoftmax,  // AhaKV
    kPower,            // attention to a power
    kSoftmax1,         // exp / (1 + sum exp)
    kKeyDifference,    // KeyDiff
    kExpected,         // Expected Attention
  };
  enum class Over { kVisible, kCandidates };
  Kind kind = Kind::kSoftmax;
  int64_t g_min_ppm = 0;  // kStepGainSoftmax: the least gain; 0: the paper, 1e6: "never flatter than the model"
  int64_t exponent_ppm = 2 * kPpm;  // kPower
  Over over = Over::kVisible;       // of the softmaxes: the tokens that a row is normalised over
  // Whether it is made from query rows.
  bool windowed() const {
    return kind == Kind::kSoftmax || kind == Kind::kStepGainSoftmax || kind == Kind::kPower || kind == Kind::kSoftmax1;
  }
  bool operator==(const Signal&) const = default;
};

// 2: over the window's rows, for windowed signals.
struct Accumulate {
  enum class Kind { kSum, kMean, kMax, kMeanVar, kRunning };
  Kind kind = Kind::kSum;
  int64_t gamma_ppm = 0;     // kMeanVar: mean + gamma * population variance
  int64_t decay_ppm = kPpm;  // kRunning: per row
  int32_t row_pool = 1;      // odd; each row is averaged over so many neighbours first, and rescaled to its sum
  bool operator==(const Accumulate&) const = default;
};

// 3: over the query heads of one kv head, or of the whole layer.
struct Group {
  enum class Kind { kMean, kMax, kSum };
  enum class Span { kGroup, kLayer };
  enum class Place { kBeforeRefine, kAfterRefine };
  Kind kind = Kind::kMean;
  Span span = Span::kGroup;
  Place place = Place::kBeforeRefine;
  bool operator==(const Group&) const = default;
};

enum class Norm : uint8_t { kL2Squared, kL2, kL1 };

// 4: applied in order to the candidates' scores.
struct Refinement {
  enum class Kind { kMaxPool, kAvgPool, kValuePrior, kValueScale, kClampToMean, kMassRatio };
  enum class Edge { kPadded, kValid };
  enum class Scale { kMax, kMean, kNone, kHeads };
  Kind kind = Kind::kMaxPool;
  int32_t pool = 1;              // odd width, for kMaxPool, kAvgPool, kValuePrior
  Edge edge = Edge::kValid;      // kAvgPool, kValuePrior
  Norm norm = Norm::kL2Squared;  // kValuePrior, kValueScale
  Scale scale = Scale::kMax;     // kValuePrior
  bool operator==(const Refinement&) const = default;
};

// 5: kept always, outside the competition.
struct Protect {
  enum class Recent { kTokens, kBudgetMinus, kBudgetOver };
  int32_t sinks = 0;  // tokens with position < sinks
  Recent recent_kind = Recent::kTokens;
  int32_t recent = 0;                 // the last `recent`, k - `recent` or floor(k / `recent`) residents
  std::vector<int32_t> classes = {};  // ascending, 0 to 255: tokens that the caller flags so
  int64_t mass_ppm = 0;               // each unit's best by mean attention, up to so much of it
  bool operator==(const Protect&) const = default;
};

// 6: over the layers.
struct LayerBudget {
  enum class Kind { kUniform, kTable, kPyramid, kEntropy, kEqualMass, kGlobal };
  Kind kind = Kind::kUniform;
  std::vector<int64_t> table_ppm = {};  // kTable: [layers] weights
  int64_t beta_ppm = 20 * kPpm;         // kPyramid: at least 1
  // Whether it reads the scores of all layers.
  bool reads_scores() const { return kind == Kind::kEntropy || kind == Kind::kEqualMass || kind == Kind::kGlobal; }
  bool operator==(const LayerBudget&) const = default;
};

// 7: over the kv heads of a layer.
struct HeadBudget {
  enum class Kind { kUniform, kAdaFloor, kAdaBlend, kTable, kCheapest, kSplit };
  Kind kind = Kind::kUniform;
  int64_t alpha_ppm = 200'000;                       // kAdaFloor, kAdaBlend
  std::vector<std::vector<int64_t>> table_ppm = {};  // kTable: [layers][kv_heads] fractions of the layer's budget
  int64_t mass_ppm = 950'000;                        // kCheapest: the share of the attention that is enough
  int32_t full_heads = 1;                            // kSplit: at most so many heads keep all
  bool operator==(const HeadBudget&) const = default;
};

// 8: inside a unit.
struct Select {
  enum class Kind { kTopK, kTopKRandom, kTwoStage, kTwoLists, kBlock };
  Kind kind = Kind::kTopK;
  int64_t fraction_ppm = 500'000;  // kTopKRandom: drawn; kTwoStage: by the plain score
  uint32_t seed = 0;               // kTopKRandom
  int64_t share_ppm = 100'000;     // kTwoLists: by attention from other classes
  bool operator==(const Select&) const = default;
};

struct Policy {
  std::string name;
  int32_t window = 32;  // query rows used, at most; 0: all that are submitted
  Signal signal = {};
  Accumulate accumulate = {};
  Group group = {};
  std::vector<Refinement> refine = {};
  Protect protect = {};
  LayerBudget layer = {};
  HeadBudget head = {};
  Select select = {};

  // What the stages read. A policy that reads norms reads one kind of them: l2 and l2sq are one, l1 is another.
  bool reads_queries() const { return signal.windowed(); }
  bool reads_keys() const;
  bool reads_norms() const;    // value norms
  Norm norm() const;           // kL2Squared or kL1: which are cached. REQUIRES: reads_norms()
  bool reads_values() const;   // norms, or the values themselves (`split`)
  bool reads_classes() const;  // [seen]
  bool reads_scores() const { return signal.kind == Signal::Kind::kSubmitted; }
  bool reads_moments() const { return signal.kind == Signal::Kind::kExpected; }  // query mean and covariance
  bool reads_projected_norms() const { return select.kind == Select::Kind::kTwoStage; }
  bool reads_attention() const;  // the mean attention of each resident beside the scores
  bool running() const { return accumulate.kind == Accumulate::Kind::kRunning; }
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
