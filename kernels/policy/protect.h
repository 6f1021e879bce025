// Stage 5: which residents of a unit are protected. Positions ascend, so the protected tokens are a head (the sinks)
// and a tail (the recent ones) of the unit, and its candidates are the range between. Stateless.
#pragma once

#include <cstdint>

#include "kvsteward/engine/paged.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {

// The candidates are residents [begin, end); 0 <= begin <= end <= length. The rest is protected.
struct CandidateRange {
  int32_t begin = 0;
  int32_t end = 0;

  int32_t size() const { return end - begin; }
};

// `k` is the sequence's mean budget. Reads positions only. Costs O(sinks + runs).
CandidateRange Candidates(const UnitView& unit, const PoolView& pool, const Protect& protect, int64_t k);

}  // namespace kvsteward::engine
