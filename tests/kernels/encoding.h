// Numbers as an element type stores them. Stateless.
#pragma once

#include <cstddef>

#include "kvsteward/engine/tensor.h"

namespace kvsteward::engine {

// `value` as `dtype` stores it.
double Rounded(DType dtype, double value);
void Encode(DType dtype, double value, std::byte* to);
double Decode(DType dtype, const std::byte* from);

}  // namespace kvsteward::engine
