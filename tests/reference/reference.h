// The pipeline once more, as the specification reads: float64, plain arrays, naive loops and sorts. It shares no code
// and no header with the engine, so that the two can be compared. Slow on purpose; stateless.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tests/reference/policy.h"

namespace kvsteward::reference {

using Row = std::vector<double>;

// The residents of one (layer, kv head).
struct Unit {
  std::vector<int64_t> positions;  // [n]
  Row keys;                        // [n, head_dim]
  Row values;                      // [n, head_dim]
  Row running;                     // running scores of the first residents; the others' are 0
};

// What a caller supplies beside the window.
struct Inputs {
  std::vector<int> classes;          // [seen]
  std::vector<Row> scores;           // [units][n]
  std::vector<Row> projected_norms;  // [units][n]
  Row query_mean;                    // [layers, query_heads, head_dim]
  Row query_covariance;              // [layers, query_heads, head_dim, head_dim]
};

struct Sequence {
  int layers = 0;
  int query_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  std::vector<Unit> units;             // [layers * kv_heads]
  Row queries;                         // [layers, query_heads, rows, head_dim]
  std::vector<int64_t> row_positions;  // [rows]
  int64_t observed = 0;                // rows below this position are in the running scores
  Inputs inputs;
};

inline constexpr double kProtected = -1;

// Stages 1-5 of one unit. What the policy does not have is empty.
struct UnitScores {
  Row scores;                 // [n] kProtected for protected residents
  Row attention;              // [n] mean over rows and query heads
  Row cross;                  // [n] the part of the score from rows of another class,
  Row self;                   // [n] and of the same
  Row running;                // [n]
  double greatest_logit = 1;  // max |g l| / sqrt(d): what float32 may lose
  double mean = 0;            // of the candidates' scores
  double greatest = 0;        // of all numbers a score goes through: float32 must hold it
  double noise = 0;           // what the flush of scores next to 2^-100 and cancellation in float64 may have grown to

  // How far a right float32 number may lie from `exact`, where `typical` is the mean of the unit's numbers.
  double Epsilon(double exact, double typical) const;
};

// Stages 1-5 of one layer for the mean budget k, [kv_heads]. With `attention` [kv_heads][n], what an engine emitted,
// the pins are those that it gives.
std::vector<UnitScores> ScoreLayer(const Sequence& sequence, const Policy& policy, int64_t k, int layer,
                                   const std::vector<Row>* attention = nullptr);

// How far each kv head's summary of its values is from the layer's mean (`split`), made from emitted attention.
Row Distances(const Sequence& sequence, int layer, const std::vector<Row>& attention);

// Which residents of a unit may go, before pins. `classes` may be empty if the policy names none.
std::vector<bool> Candidates(const Unit& unit, const std::vector<int>& classes, const Policy& policy, int64_t k);

// Query rows that the policy uses, as indices.
std::vector<int> RowsUsed(const Sequence& sequence, const Policy& policy);

// What an engine emitted for one unit. What the policy does not read may be empty.
struct Emitted {
  std::vector<int64_t> positions;  // [n]
  Row scores;                      // [n] kProtected marks protected residents
  Row attention;                   // [n]
  Row cross;                       // [n]
  Row self;                        // [n]
  Row projected;                   // [n]
  double distance = 0;
};

struct Decision {
  std::vector<std::vector<bool>> keep;  // [units][n]
  int unsplit_layers = 0;               // `split` found room for no full head
};

// Stages 6-8. `rows`: query rows that were used.
Decision Decide(const Policy& policy, int layers, int kv_heads, int64_t k, int rows, const std::vector<Emitted>& units);

}  // namespace kvsteward::reference
