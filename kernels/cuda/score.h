// Stages 1 to 3 on the device for signals that are made from query rows: attention of the window's rows over all units'
// residents, accumulated over the rows and grouped over the query heads of each kv head. Stateless; all memory is the
// caller's. The result depends on the unit alone: not on the grid, the other units or where blocks lie.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/views.h"

namespace kvsteward::engine::cuda {

struct ScoreArgs {
  DevicePool pool;  // data aligned to 16 bytes, block_bytes as Geometry says
  DeviceUnits units;
  int32_t head_dim = 0;
  int32_t group = 1;  // query heads per kv head
  DType dtype = DType::kBF16;

  // The window, [layers, kv_heads * group, window_rows, head_dim], aligned to 16 bytes; rows [first_row, first_row +
  // rows) of it are used.
  const std::byte* queries = nullptr;
  DType query_dtype = DType::kBF16;
  int32_t window_rows = 0;
  int32_t first_row = 0;
  int32_t rows = 0;                    // at least 1
  const int32_t* positions = nullptr;  // [rows] of the rows used
  const float* scale = nullptr;        // g log2(e) / sqrt(head_dim): row i of unit u has scale[u * scale_stride + i]
  int64_t scale_stride = 0;            // `rows`, or 0: all units the same

  // The signal: the softmax of the scaled logits to the power `exponent`.
  double exponent = 1;
  bool softmax1 = false;
  // [units][group][rows], or null: the natural logarithm of the sum over what the row sees of exp(scaled logit), minus
  // infinity if it sees nothing. At the same scale; the 1 of softmax1 is not in it. With it, keys are read once.
  const float* log_normaliser = nullptr;

  // Stages 2 and 3: each the sum unless told otherwise.
  bool mean_rows = false;
  bool max_rows = false;
  bool mean_heads = false;
  bool max_heads = false;

  float* scores = nullptr;     // of every resident, at units.offset
  float* attention = nullptr;  // null, or likewise the mean over rows and query heads, whatever stages 2 and 3 say

  // [units], bad_token.h. At most the index of the first resident with which some row, seeing it or not, has a scaled
  // logit that is not finite; scores then mean nothing for the unit. A bad query row makes all residents bad; products
  // that overflow make a resident bad that no row may see: the host looks closer from there on.
  int64_t* bad = nullptr;
};

// As many units as need no more than 64 MiB of workspace, but at least one.
int32_t UnitsWithinWorkspace(const ScoreArgs& args);

// What LaunchScore needs for `units_at_a_time` units, aligned to 16 bytes.
size_t ScoreWorkspaceBytes(const ScoreArgs& args, int32_t units_at_a_time);

// Scores all units, some at a time (0: all at once) so that the second pass over their keys may find them in L2.
// Reads no more than the unit's residents. 4 launches per group of units at most.
cudaError_t LaunchScore(const ScoreArgs& args, int32_t units_at_a_time, void* workspace, cudaStream_t stream);

}  // namespace kvsteward::engine::cuda
