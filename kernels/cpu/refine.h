// Stage 4 on the host: refinements of one unit's candidate scores, in order. Sequential within the unit, so the result
// depends on nothing but its inputs. Stateless.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/policy/protect.h"
#include "kvsteward/engine/paged.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine::cpu {

// `scores` [length] of the unit; only those of `candidates` are read and written. The first resident whose score is not
// finite before or after a refinement (there it stops), or -1. REQUIRES: if a refinement is a kValuePrior, the pool's
// norms are filled for the unit's residents.
int32_t RefineUnit(const PoolView& pool, const UnitView& unit, std::span<const Refinement> refinements,
                   CandidateRange candidates, std::span<float> scores);

}  // namespace kvsteward::engine::cpu
