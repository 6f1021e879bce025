// A policy as the reference reads it: the stages of the specification, in its words. A plain value.
#pragma once

#include <cstdint>
#include <vector>

namespace kvsteward::reference {

enum class Signal { kNone, kSubmitted, kSoftmax, kStepGainSoftmax, kPower, kSoftmax1, kKeyDifference, kExpected };
enum class Accumulate { kSum, kMean, kMax, kMeanVar, kRunning };
enum class Reduce { kMean, kMax, kSum };
enum class Refine { kMaxPool, kAvgPoolPadded, kAvgPoolValid, kValuePrior, kValueScale, kClampToMean, kMassRatio };
enum class Norm { kL2Squared, kL2, kL1 };
enum class Scale { kMax, kMean, kNone, kHeads };
enum class Recent { kTokens, kBudgetMinus, kBudgetOver };
enum class Layer { kUniform, kTable, kPyramid, kEntropy, kEqualMass, kGlobal };
enum class Head { kUniform, kAdaFloor, kAdaBlend, kTable, kCheapest, kSplit };
enum class Select { kTopK, kTopKRandom, kTwoStage, kTwoLists, kBlock };

struct Refinement {
  Refine kind = Refine::kMaxPool;
  int pool = 1;
  bool padded = false;  // kValuePrior: how its pool treats the edges
  Norm norm = Norm::kL2Squared;
  Scale scale = Scale::kMax;
};

// Shares that floors are made from are integers of 1e-6.
struct Policy {
  int window = 32;  // 0: all rows
  Signal signal = Signal::kSoftmax;
  double g_min = 0;
  double exponent = 2;
  bool over_candidates = false;
  Accumulate accumulate = Accumulate::kSum;
  double gamma = 0;
  double decay = 1;
  int row_pool = 1;
  Reduce group = Reduce::kMean;
  bool span_layer = false;
  bool after_refine = false;
  std::vector<Refinement> refine;
  int sinks = 0;
  Recent recent_kind = Recent::kTokens;
  int recent = 0;
  std::vector<int> classes;
  int64_t pinned_mass_ppm = 0;
  Layer layer = Layer::kUniform;
  std::vector<int64_t> layer_table;
  double beta = 20;
  Head head = Head::kUniform;
  int64_t alpha_ppm = 0;
  std::vector<std::vector<int64_t>> head_table;
  int64_t enough_mass_ppm = 0;
  int full_heads = 0;
  Select select = Select::kTopK;
  int64_t fraction_ppm = 0;
  uint32_t seed = 0;
  int64_t share_ppm = 0;

  bool windowed() const {
    return signal == Signal::kSoftmax || signal == Signal::kStepGainSoftmax || signal == Signal::kPower ||
           signal == Signal::kSoftmax1;
  }
  bool reads_attention() const { return pinned_mass_ppm > 0 || head == Head::kCheapest || head == Head::kSplit; }
};

}  // namespace kvsteward::reference
