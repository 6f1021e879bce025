// The pipeline once more, as the specification reads: float64, plain arrays, naive loops and sorts. It shares no code
// and no header with the engine, so that the two can be compared. Slow on purpose; stateless.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace kvsteward::reference {

enum class Signal { kNone, kSoftmax, kStepGainSoftmax };
enum class Reduce { kSum, kMean, kMax };
enum class Refine { kMaxPool, kAvgPoolPadded, kAvgPoolValid, kValuePrior, kClampToMean };
enum class Norm { kL2Squared, kL2 };
enum class Scale { kMax, kMean, kNone };
enum class Head { kUniform, kAdaFloor, kAdaBlend };

struct Refinement {
  Refine kind = Refine::kMaxPool;
  int pool = 1;
  bool padded = false;  // kValuePrior: how its pool treats the edges
  Norm norm = Norm::kL2Squared;
  Scale scale = Scale::kMax;
};

struct Policy {
  int window = 32;
  Signal signal = Signal::kSoftmax;
  double g_min = 0;
  Reduce accumulate = Reduce::kSum;
  Reduce group = Reduce::kMean;
  std::vector<Refinement> refine;
  int sinks = 0;
  int recent = 0;
  bool recent_is_budget_minus = false;
  Head head = Head::kUniform;
  int64_t alpha_ppm = 0;
};

// The residents of one (layer, kv head).
struct Unit {
  std::vector<int64_t> positions;  // [n]
  std::vector<double> keys;        // [n, head_dim]
  std::vector<double> values;      // [n, head_dim]
};

struct Sequence {
  int layers = 0;
  int query_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  std::vector<Unit> units;             // [layers * kv_heads]
  std::vector<double> queries;         // [layers, query_heads, rows, head_dim]
  std::vector<int64_t> row_positions;  // [rows]
};

inline constexpr double kProtected = -1;

struct UnitScores {
  std::vector<double> scores;  // [n] kProtected for protected residents
  double greatest_logit = 0;   // max |g l| / sqrt(d): what float32 may lose
  double mean = 0;             // of the candidates' scores
  double greatest = 0;         // of the candidates' scores after any refinement: float32 must hold it

  // How far a right float32 score of resident j may lie from scores[j].
  double Epsilon(size_t j) const;
};

// Stages 1-5 of one unit for the mean budget k.
UnitScores Score(const Sequence& sequence, const Policy& policy, int64_t k, int layer, int kv_head);

// Stages 6-8: which residents stay, given every unit's scores (kProtected marks protected ones). [units][n]
std::vector<std::vector<bool>> Decide(const Policy& policy, int layers, int kv_heads, int64_t k,
                                      const std::vector<std::vector<double>>& scores);

}  // namespace kvsteward::reference
