// What kernels are handed by value. Every pointer is device memory; nothing here owns any.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvsteward/engine/tensor.h"

namespace kvsteward::engine::cuda {

// A lease's blocks and their side arrays, as PoolView, on the device.
struct DevicePool {
  std::byte* data = nullptr;
  size_t block_bytes = 0;
  int32_t* positions = nullptr;
  float* norms = nullptr;
  float* running = nullptr;
};

// The residents of all units of one sequence, layer-major as in SequenceView. Arrays over tokens (scores, candidates)
// have all units' residents one after the other: unit u's are [offset[u], offset[u + 1]). Invariants: 0 <= stored <=
// length; resident j lies in blocks[u * block_stride + j / 16], slot j % 16.
struct DeviceUnits {
  int32_t units = 0;  // layers * kv_heads
  int32_t kv_heads = 0;
  int32_t longest = 0;                         // of the units' lengths: bounds every grid
  int32_t block_stride = 0;                    // entries of a unit in `blocks`
  const uint32_t* blocks = nullptr;            // [units][block_stride]
  const int32_t* length = nullptr;             // [units]
  const int32_t* stored = nullptr;             // [units]
  const int32_t* appended_position = nullptr;  // [units]
  const int64_t* offset = nullptr;             // [units + 1]
};

// Most units that a grid with a dimension of its own for them takes.
inline constexpr int32_t kMostGridUnits = 65'535;

// Units [first, first + count) of them. Arrays over units that are not in here begin at `first` then.
inline DeviceUnits Slice(DeviceUnits units, int32_t first, int32_t count) {
  const auto skip = [](auto*& array, int64_t entries) {
    if (array != nullptr) array += entries;  // some launchers are not given all
  };
  units.units = count;
  skip(units.blocks, int64_t{first} * units.block_stride);
  skip(units.length, first);
  skip(units.stored, first);
  skip(units.appended_position, first);
  skip(units.offset, first);
  return units;
}

}  // namespace kvsteward::engine::cuda
