// What the kernels of scoring share: how one group of units is cut into work, as plain data that they are handed by
// value. Internal to kernels/cuda.
//
// The group * rows query rows of a kv head are padded: every query head's to a whole number of slices (kSliceRows, or 8
// rows), all of them to row blocks. Residents are cut in chunks, chunks in tiles. Pass 1 takes (unit, chunk, row block)
// and leaves each row's maximum and sum; pass 2 takes (unit, chunk), walks the row blocks in order and so has each
// column's slices in a fixed order.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/views.h"

namespace kvsteward::engine::cuda {

inline constexpr int32_t kBlockRows = 128;  // query rows that a CTA holds at a time
inline constexpr int32_t kTileKeys = 64;
inline constexpr int32_t kChunkKeys = 512;  // whole tiles and whole pool blocks
inline constexpr int32_t kScoreThreads = 256;
inline constexpr int32_t kSliceRows = 32;  // a warp's

// How the rows of a query head are folded. kMax gives the sum as well, for the attention, and works on slices of 8.
enum class RowFold { kSumSlices, kSumOctets, kMax };

// One padded query row: probability = 2^(scale * logit - max) * weight. Padding has scale, max and weight 0.
struct alignas(16) RowTerm {
  float scale = 0;
  float max = 0;
  float weight = 0;
  int32_t visible = 0;  // the row sees the unit's first `visible` residents
};

struct ScorePass {
  DevicePool pool;
  DeviceUnits units;
  int32_t first_unit = 0;  // of this group
  int32_t unit_count = 0;
  int32_t head_dim = 0;

  const std::byte* queries = nullptr;
  int32_t group = 0;
  int32_t window_rows = 0;
  int32_t first_row = 0;
  int32_t rows = 0;
  int32_t head_rows = 0;   // of a query head, padded
  int32_t row_blocks = 0;  // all rows, padded, in blocks of kBlockRows
  int32_t chunks = 0;      // of the longest unit

  RowTerm* terms = nullptr;    // [unit_count][row_blocks * kBlockRows]
  float* chunk_max = nullptr;  // [unit_count][chunks][row_blocks * kBlockRows]
  float* chunk_sum = nullptr;  // likewise
  bool max_heads = false;      //
  float least = 0;             // a query head's column below it becomes 0
  float factor = 0;            // of the score
  float attention_factor = 0;  // of the sum over all rows
  float* scores = nullptr;     //
  float* attention = nullptr;  // or null
  int64_t* bad = nullptr;      // [all units]

  __host__ __device__ int32_t padded_rows() const { return row_blocks * kBlockRows; }
};

struct ScoreArgs;

// Fills scale and visible of the group's terms, and all of them if the normalisers are known.
cudaError_t LaunchRowTerms(const ScoreArgs& args, const ScorePass& pass, cudaStream_t stream);

// Fills max and weight from the chunks' maxima and sums, in their order, and puts the exponent into the scale.
cudaError_t LaunchCombine(const ScoreArgs& args, const ScorePass& pass, cudaStream_t stream);

// Pass 1, and pass 2 with the given fold, on tensor cores. REQUIRES: head_dim is a multiple of 16 up to 256; keys and
// queries are both bf16 (`bf16`) or both f16.
cudaError_t LaunchReduceOnTensorCores(const ScorePass& pass, bool bf16, cudaStream_t stream);
cudaError_t LaunchFoldOnTensorCores(const ScorePass& pass, bool bf16, RowFold fold, cudaStream_t stream);

// The same for everything else.
cudaError_t LaunchReducePlain(const ScorePass& pass, DType keys, DType queries, cudaStream_t stream);
cudaError_t LaunchFoldPlain(const ScorePass& pass, DType keys, DType queries, RowFold fold, cudaStream_t stream);

}  // namespace kvsteward::engine::cuda
