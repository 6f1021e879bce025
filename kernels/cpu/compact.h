// Moving the tokens that stay: a unit's kept keys, values, positions, norms and running scores to other blocks, in
// order. Stateless.
#pragma once

#include <cstdint>
#include <span>

#include "kvsteward/engine/paged.h"

namespace kvsteward::engine::cpu {

// As Engine::CompactUnits, one of them: the unit's tokens in `mask` go to `to`.
void CompactUnit(const Geometry& geometry, const PoolView& pool, const UnitView& unit, std::span<const uint64_t> mask,
                 std::span<const Run> to);

}  // namespace kvsteward::engine::cpu
