// Sliding windows over an array, in place. The cost does not grow with the window. Stateless.
#pragma once

#include <cstdint>
#include <span>

#include "kvsteward/engine/policy.h"

namespace kvsteward::engine::cpu {

// values[i] = the greatest of values[i - pool/2 .. i + pool/2]. REQUIRES: pool is odd, no value is negative.
void MaxPool(std::span<float> values, int32_t pool);

// values[i] = the mean of values[i - pool/2 .. i + pool/2], in float64: kPadded divides by `pool`, kValid by how many
// there are. REQUIRES: pool is odd.
void AveragePool(std::span<float> values, int32_t pool, Refinement::Edge edge);

}  // namespace kvsteward::engine::cpu
