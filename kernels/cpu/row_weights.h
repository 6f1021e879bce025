// Between the passes: from the rows' normalisers to what pass 2 multiplies their probabilities by. Plain data and
// stateless functions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cpu/packed_rows.h"
#include "kernels/cpu/tiles.h"

namespace kvsteward::engine::cpu {

// The rows' normalisers by chunk, as ReduceChunk gives them.
struct Normalisers {
  std::vector<float> max;   // [chunks][rows]
  std::vector<double> sum;  // [chunks][rows]

  void Resize(size_t chunks, size_t rows) {
    max.resize(chunks * rows);
    sum.resize(chunks * rows);
  }
};

// The [rows] of Fold.
struct RowWeights {
  std::vector<float> scale;
  std::vector<float> max;
  std::vector<float> weight;
  std::vector<float> share;
};

// The exponent of the signal, 1 but for a power.
double ExponentOf(const Signal& signal);

// `scale` times the signal's exponent.
std::vector<float> PowerScale(const QueryRows& rows, const Signal& signal);

// `normalisers` are the softmax's. `pooled` are those of PowerScale(), which differ for a power, and are only looked at
// if rows are pooled. A row that sees nothing weighs 0, as does one too small to matter.
RowWeights WeighRows(const UsedRows& used, int32_t kv_head, const QueryRows& rows, const Normalisers& normalisers,
                     const Normalisers& pooled);

}  // namespace kvsteward::engine::cpu
