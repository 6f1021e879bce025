// What the worker's kernels are told about a cache in device memory, by value. Owns nothing.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvsteward/engine/tensor.h"

namespace kvsteward::worker::cuda {

// One row of blocks for each (sequence, kv head): every row has a length of its own.
// Invariants: token j of row r lies in block b = blocks[r * block_stride + j / 16], slot j % 16: its key [head_dim] in
// the block's first half, which begins at data + b * block_bytes, its value in the second half. `data` is aligned to 16
// bytes, block_bytes is 32 tokens, head_dim a multiple of 8.
struct PagedRows {
  std::byte* data = nullptr;
  size_t block_bytes = 0;
  engine::DType dtype = engine::DType::kF32;
  int32_t head_dim = 0;
  int32_t rows = 0;
  const uint32_t* blocks = nullptr;  // [rows][block_stride]
  int32_t block_stride = 0;
  const int32_t* length = nullptr;  // [rows] tokens up to the first new one, that one included
};

}  // namespace kvsteward::worker::cuda
