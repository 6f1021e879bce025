// Stage 8 of the reference: which candidates stay.
#pragma once

#include <array>

#include "tests/reference/reference.h"

namespace kvsteward::reference {

// Philox4x32-10 (Salmon et al., 2011).
std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// The `budget` candidates of a unit that stay, as flags of all its residents; protected ones stay too. Not `block`.
std::vector<bool> SelectUnit(const Policy& policy, int layer, int head, int rows, const Emitted& unit, int64_t budget);

// `block`: what stays in each unit of a layer so that `total` candidates, or at most 15 fewer, stay.
std::vector<std::vector<bool>> SelectByBlocks(const Policy& policy, const std::vector<Emitted>& units, int64_t total);

}  // namespace kvsteward::reference
