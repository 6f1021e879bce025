// The inner loop of `expected`, compiled for several instruction sets: a quadratic form of every key of a chunk.
// Stateless.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cpu/tiles.h"

namespace kvsteward::engine::cpu {

// x(k) = k . (linear + U k) with an upper triangular U, as panels of kPanelRows rows: panel p holds its rows' columns
// [kPanelRows * p, dim) as [column][row], zeros below the diagonal and beyond the last row.
struct Quadratic {
  const float* linear = nullptr;  // [dim rounded up to panels], zeros at the end
  const float* panels = nullptr;
  const uint16_t* parts = nullptr;  // U once more, from SplitPanels: keys are bf16, AMX is used
};

// Floats in all panels.
constexpr size_t PanelFloats(int32_t dim) {
  size_t floats = 0;
  for (int32_t first = 0; first < dim; first += kPanelRows) floats += static_cast<size_t>(dim - first) * kPanelRows;
  return floats;
}

// U for AMX: each kAmxRows rows' columns, from the tile register on in which their first one lies, as the three numbers
// in bf16 that add up to each, laid out as AmxSplitLogits reads them. Empty if AMX's result might differ from float32's
// by more than that rounds: AMX takes subnormal numbers for 0, which U's must make up for. REQUIRES: AmxTakes(dim).
std::vector<uint16_t> SplitPanels(int32_t dim, std::span<const float> panels);

// Writes x of the chunk's keys for each of the forms, `stride` floats apart. False if one of them is not finite.
// REQUIRES: all forms are packed for AMX, or none is.
bool QuadraticChunk(std::span<const Quadratic> forms, const Chunk& chunk, Scratch& scratch, float* out, size_t stride);

}  // namespace kvsteward::engine::cpu
