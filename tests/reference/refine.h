// Stage 4 of the reference: one unit's candidate scores through the list of refinements.
#pragma once

#include "tests/reference/reference.h"

namespace kvsteward::reference {

// The norm of every resident's value, held in float32 as a cache of norms does: the sum of squares, or of sizes.
Row NormsOf(const Sequence& sequence, const Unit& unit, Norm norm);

// `signals` [n] of a unit's residents, refined: [candidates]. `candidate`: [kv_heads][n] of the layer. `uniform`: the
// unit's uniform candidate budget. Grows *greatest to the greatest number on the way, and *noise as numbers grow.
Row Refined(const Sequence& sequence, const Policy& policy, int layer, int kv_head, const Row& signals,
            const std::vector<std::vector<bool>>& candidate, int64_t uniform, double* greatest, double* noise);

}  // namespace kvsteward::reference
