// Exact selection by the bits of scores: a digit at a time, the scores of each digit's value are counted, and only
// those of the value at which the selection reaches its total are looked at again. Integers only; rows as in scan.h.
// Stateless; thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/plan/parallel.h"
#include "kernels/plan/scan.h"

namespace kvsteward::engine {

// A selection over rows: row u gives its best counts[u] candidates.
struct JointSelection {
  std::vector<int64_t> counts;  // [rows]
  int32_t key = 0x7fffffff;     // where the rows cut that neither bound holds
};

// Row u gives its best least[u], and no more than its best most[u]; of the ranks between, the jointly best are taken
// until all give `total`, ties to the lower row. Each row is read twice; memory grows with the ties of the first digit.
// REQUIRES: 0 <= least[u] <= most[u] <= the row's candidates; sum of least <= total <= sum of most.
JointSelection SelectJointly(std::span<const std::span<const float>> rows, std::span<const int64_t> least,
                             std::span<const int64_t> most, int64_t total, const ParallelFor& parallel);

// Where the best `count` candidates of a row end, ties to the lower index. REQUIRES: the row has as many.
Cut FindCut(std::span<const float> row, int64_t count);

// The candidates' keys in ascending order.
std::vector<int32_t> SortedKeys(std::span<const float> row);

}  // namespace kvsteward::engine
