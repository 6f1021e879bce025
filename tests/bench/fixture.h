// A synthetic layer in a pool: normal keys, values and queries in bf16. The same numbers for the same seed. Owns all
// memory that its views name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kvsteward/engine/paged.h"

namespace kvsteward::bench {

class Fixture {
 public:
  // One layer of `kv_heads` units of `tokens` residents, and as many free blocks again.
  Fixture(int32_t tokens, int32_t query_heads, int32_t kv_heads, int32_t head_dim, int32_t window);

  // With every value norm cached, or none; with the queries in bf16, or the same numbers in float32.
  const engine::SequenceView& Sequence(bool normed, bool float_queries);
  // The unit's free blocks.
  Run FreeRun(int32_t unit) const;

 private:
  engine::Geometry geometry_;
  std::vector<std::byte> data_;
  std::vector<int32_t> positions_;
  std::vector<float> norms_;
  std::vector<Run> runs_;
  std::vector<engine::UnitView> units_;
  std::vector<std::byte> queries_;
  std::vector<float> float_queries_;
  std::vector<int32_t> query_positions_;
  engine::SequenceView view_;
};

}  // namespace kvsteward::bench
