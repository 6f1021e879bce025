// A synthetic sequence in a pool like a worker's (a memfd in pages of 4 KiB): normal keys, values and queries in bf16,
// and every other input that a policy may read. The same numbers for the same seed. Owns all memory that its views
// name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/unique_fd.h"
#include "kvsteward/engine/engine.h"
#include "kvsteward/engine/paged.h"
#include "kvsteward/engine/engine.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::bench {

inline constexpr int32_t kQueryHeads = 32;
inline constexpr int32_t kKvHeads = 8;
inline constexpr int32_t kHeadDim = 128;
inline constexpr int32_t kWindow = 32;

struct Options {
  int32_t tokens = 32768;
  int threads = 1;
  int rounds = 9;
};

// What of a sequence a measurement looks at.
struct Shape {
  int32_t tokens = 0;          // per unit, at most the fixture's
  int32_t layers = 1;          // at most the fixture's
  bool normed = true;          // value norms are cached
  bool float_queries = false;  // the same numbers in float32
};

class Fixture {
 public:
  // Units of `tokens` residents, and as much room again. All layers show the same units, with inputs of their own.
  explicit Fixture(int32_t tokens, int32_t layers = 1);

  // As `policy` reads it; for a running one, all but the window's rows were observed. With norms cached they are those
  // of its last call that had none. Valid until the next call.
  const engine::SequenceView& Sequence(const engine::Policy& policy, const Shape& shape);
  // The unit's free blocks.
  Run FreeRun(int32_t unit) const;
  // Leaves the caches as a pass over all keys and values leaves them.
  void ReadAll() const;

 private:
  engine::Geometry geometry_;
  Mapping data_;
  std::vector<Run> runs_;
  std::vector<int32_t> positions_;
  std::vector<float> l2_norms_;
  std::vector<float> l1_norms_;
  std::vector<float> running_;
  std::vector<std::byte> queries_;
  std::vector<float> float_queries_;
  std::vector<uint8_t> classes_;
  std::vector<float> projected_norms_;
  std::vector<float> query_mean_;
  std::vector<float> query_covariance_;
  std::vector<int32_t> query_positions_;
  std::vector<engine::UnitView> units_;
  engine::SequenceView view_;
};

// The preset with a window of 32 rows, if it has one and not just the last row.
engine::Policy WithWindow(engine::Policy policy);

// Scores and selects; the process ends if that is refused.
engine::Plan MakePlan(engine::Engine& engine, const engine::SequenceView& sequence, const engine::Policy& policy,
                      int64_t budget);

}  // namespace kvsteward::bench
