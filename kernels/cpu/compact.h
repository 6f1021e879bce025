// Moving the tokens that stay: a unit's kept keys, values, positions, norms and running scores to other blocks, in
// order. Stateless.
#pragma once

#include "kvsteward/engine/engine.h"
#include "kvsteward/engine/paged.h"

namespace kvsteward::engine::cpu {

// As Engine::CompactUnits, one of them.
void CompactUnit(const Geometry& geometry, const PoolView& pool, const UnitCompaction& compaction);

}  // namespace kvsteward::engine::cpu
