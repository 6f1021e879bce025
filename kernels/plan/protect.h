// Stage 5: which residents of a unit are protected, and which compete. Positions ascend, so sinks are a head and recent
// tokens a tail of the unit; flagged and pinned tokens lie anywhere between. Stateless.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kvsteward/engine/paged.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {

// The candidates of a unit: residents [begin, end) but for `holes`; all others are protected.
// Invariants: 0 <= begin <= end <= length; holes ascend within [begin, end).
struct CandidateSet {
  int32_t begin = 0;
  int32_t end = 0;
  std::vector<int32_t> holes;

  int32_t size() const { return end - begin - static_cast<int32_t>(holes.size()); }
};

// How many of the newest residents are protected, as far as there are so many.
int64_t Recent(const Protect& protect, int64_t k);

// What sinks, recent tokens and flagged classes leave. `k` is the sequence's mean budget, `classes` the caller's flags
// by position (looked at only if the policy names classes). Costs O(sinks + runs), O(length) with classes.
CandidateSet Candidates(const UnitView& unit, const PoolView& pool, std::span<const uint8_t> classes,
                        const Protect& protect, int64_t k);

// floor(c): the candidates a unit would keep if all of its layer kept as many, `k` less the layer's mean number of
// protected tokens; 0 if those are more.
int64_t UniformShare(int64_t k, int64_t kv_heads, int64_t protected_tokens);

// Pins the candidates of highest attention, ties to the lower position, as long as they hold together at most
// `mass_ppm` of all the unit's attention, at most `most` of them and none without attention. Float64 in that order; the
// whole in order of position. `attention`: [length].
void PinByMass(std::span<const float> attention, int64_t mass_ppm, int64_t most, CandidateSet* candidates);

}  // namespace kvsteward::engine
