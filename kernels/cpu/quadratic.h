// The inner loop of `expected`, compiled for several instruction sets: a quadratic form of every key of a chunk.
// Stateless.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/tiles.h"

namespace kvsteward::engine::cpu {

// x(k) = k . (linear + U k) with an upper triangular U, as panels of kPanelRows rows: panel p holds its rows' columns
// [kPanelRows * p, dim) as [column][row], zeros below the diagonal and beyond the last row.
struct Quadratic {
  const float* linear = nullptr;  // [dim rounded up to panels], zeros at the end
  const float* panels = nullptr;
};

// Floats in all panels.
constexpr size_t PanelFloats(int32_t dim) {
  size_t floats = 0;
  for (int32_t first = 0; first < dim; first += kPanelRows) floats += static_cast<size_t>(dim - first) * kPanelRows;
  return floats;
}

// Writes x of the chunk's keys. False if one of them is not finite.
bool QuadraticChunk(const Quadratic& form, const Chunk& chunk, Scratch& scratch, float* out);

}  // namespace kvsteward::engine::cpu
