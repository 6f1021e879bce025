// Stage 7: how many candidates each kv head of a layer keeps. Integer arithmetic, float64 where a method needs shares
// of attention, in a fixed order. Rows of scores as in scan.h. Stateless; thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/plan/parallel.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {

// Of one layer, [kv_heads] each. What a method does not read may be empty.
struct LayerCandidates {
  std::span<const std::span<const float>> scores;     // of all residents, marks are protected ones
  std::span<const int64_t> sizes;                     // how many of them are candidates
  std::span<const std::span<const float>> attention;  // of all residents (`cheapest`)
  std::span<const double> distance;                   // `split`
};

struct HeadShares {
  std::vector<int64_t> shares;  // [kv_heads] candidates that stay
  int32_t key = 0x7fffffff;     // where a joint selection cut: a good guess at where the heads' own selections do
  bool unsplit = false;         // `split` found room for no full head
};

// The shares sum to `total`. REQUIRES: 0 <= total <= the number of candidates; at most 4096 heads; a table fits the
// layer and has fractions of at most kPpm.
HeadShares AllotHeads(const HeadBudget& head, int32_t layer, const LayerCandidates& candidates, int64_t total,
                      const ParallelFor& parallel);

// What `ada_floor` guarantees each head: floor(alpha c), as far as it has them.
std::vector<int64_t> AdaFloors(int64_t alpha_ppm, std::span<const int64_t> sizes, int64_t total);

}  // namespace kvsteward::engine
