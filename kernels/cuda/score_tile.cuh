// What both passes do with the logits of a warp: 32 query rows by 16 keys, spread over its lanes as m16n8k16 leaves
// them. Lane l holds rows l / 4 + 8 o (o = 0..3, the octets) and keys 8 n + 2 (l % 4) + e (n, e = 0, 1).
#pragma once

#include <cfloat>
#include <cstdint>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/score_pass.h"

namespace kvsteward::engine::cuda {

inline constexpr int kWarpRows = 32;
inline constexpr int kWarpKeys = 32;  // of a tile; two strips
inline constexpr int kStripKeys = 16;
inline constexpr int kStrips = kWarpKeys / kStripKeys;
inline constexpr int kOctets = 4;
inline constexpr int kRowWarps = kBlockRows / kWarpRows;
inline constexpr int kKeyWarps = kTileKeys / kWarpKeys;
static_assert(kRowWarps * kKeyWarps * 32 == kScoreThreads);
static_assert(sizeof(RowTerm) == sizeof(int4));
static_assert(kSliceRows == kWarpRows && kChunkKeys % kTileKeys == 0 && kTileKeys % kBlockTokens == 0);

// A lane's part: [octet][2 n + e].
struct Logits {
  float at[kOctets][4];
};

// Where a thread stands in the CTA's rows and keys.
struct Lane {
  int32_t lane;  // in the warp
  int32_t row;   // of octet 0, in the row block
  int32_t key;   // the first of strip 0, in the tile
  int32_t row_warp;

  __device__ Lane() {
    const auto thread = static_cast<int32_t>(threadIdx.x);
    lane = thread % 32;
    row_warp = thread / 32 % kRowWarps;
    row = row_warp * kWarpRows + lane / 4;
    key = thread / 32 / kRowWarps * kWarpKeys + lane % 4 * 2;
  }
  // Of a lane's keys, relative to `key` of its strip.
  static __device__ int32_t Offset(int column) { return column / 2 * 8 + column % 2; }
};

// The numbers of padded row `row`, or null if it is padding.
__device__ __forceinline__ const std::byte* QueryRow(const ScorePass& pass, int32_t unit, int32_t row, DType dtype) {
  const int32_t head = row / pass.head_rows;
  const int32_t in_head = row % pass.head_rows;
  if (head >= pass.group || in_head >= pass.rows) return nullptr;
  const int64_t index = (int64_t{unit} * pass.group + head) * pass.window_rows + pass.first_row + in_head;
  return pass.queries + index * pass.head_dim * static_cast<int64_t>(SizeOf(dtype));
}

// The terms of a lane's rows. They are loaded for every strip (from L1), because the query rows need the registers.
struct LaneTerms {
  const RowTerm* rows;    // of octet 0
  int32_t least_visible;  // of all the warp's rows

  // `terms`: of the row block. Called by whole warps.
  __device__ LaneTerms(const RowTerm* terms, const Lane& lane) : rows(terms + lane.row) {
    int32_t least = INT32_MAX;
#pragma unroll
    for (int o = 0; o < kOctets; ++o) least = min(least, rows[8 * o].visible);
    least_visible = __reduce_min_sync(0xffffffffu, least);
  }

  __device__ __forceinline__ RowTerm Octet(int o) const {
    const int4 words = *reinterpret_cast<const int4*>(rows + 8 * o);
    return {__int_as_float(words.x), __int_as_float(words.y), __int_as_float(words.z), words.w};
  }
};

// Names the first of the lane's keys from `key` on that has a scaled logit that is not finite. `length`: the unit's.
__device__ __forceinline__ void ReportLogits(const Logits& logits, const LaneTerms& terms, int32_t key, int32_t length,
                                             int64_t* bad, int32_t unit) {
  int32_t first = INT32_MAX;
#pragma unroll
  for (int o = 0; o < kOctets; ++o) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      if (!isfinite(logits.at[o][c] * terms.Octet(o).scale)) first = min(first, key + Lane::Offset(c));
    }
  }
  if (first < length) ReportBadToken(bad, unit, first);
}

// Pass 1: each lane keeps the maximum and sum of its own keys, for each of its rows.
struct LaneSums {
  float max[kOctets];
  float sum[kOctets];

  __device__ LaneSums() {
#pragma unroll
    for (int o = 0; o < kOctets; ++o) {
      max[o] = -FLT_MAX;
      sum[o] = 0;
    }
  }

  // Adds a strip whose first key of this lane is resident `key`. Returns NaN if some scaled logit is not finite, else
  // 0.
  template <bool kMasked>
  __device__ __forceinline__ float Add(const Logits& logits, const LaneTerms& terms, int32_t key) {
    float check = 0;
#pragma unroll
    for (int o = 0; o < kOctets; ++o) {
      const RowTerm term = terms.Octet(o);
      float y[4];
      bool seen[4];
      float top = -FLT_MAX;
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        y[c] = logits.at[o][c] * term.scale;
        check = fmaf(y[c], 0.0f, check);
        seen[c] = !kMasked || key + Lane::Offset(c) < term.visible;
        if (seen[c]) top = fmaxf(top, y[c]);
      }
      if (top > max[o]) {
        sum[o] *= Exp2(max[o] - top);
        max[o] = top;
      }
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const float p = Exp2(y[c] - max[o]);
        sum[o] += seen[c] ? p : 0.0f;
      }
    }
    return check;
  }

  __device__ __forceinline__ void Merge(int o, float other_max, float other_sum) {
    const float top = fmaxf(max[o], other_max);
    sum[o] = sum[o] * Exp2(max[o] - top) + other_sum * Exp2(other_max - top);
    max[o] = top;
  }

  // What the four lanes of a row have together, in all of them. Called by whole warps.
  __device__ void MergeLanes() {
#pragma unroll
    for (int o = 0; o < kOctets; ++o) {
#pragma unroll
      for (int mask = 1; mask <= 2; mask *= 2) {
        const float other_max = __shfl_xor_sync(0xffffffffu, max[o], mask);
        const float other_sum = __shfl_xor_sync(0xffffffffu, sum[o], mask);
        Merge(o, other_max, other_sum);
      }
    }
  }
};

// Over the 8 rows that lanes of equal l % 4 hold, four columns at a time. The lane is left with one column: that of its
// bits 2 (the higher two or the lower two) and 3; both values of bit 4 hold the same.
template <class Op>
__device__ __forceinline__ float OverRows(const float (&column)[4], int32_t lane, Op op) {
  const bool upper = (lane & 4) != 0;
  const bool odd = (lane & 8) != 0;
  const float give0 = upper ? column[0] : column[2];
  const float give1 = upper ? column[1] : column[3];
  const float two0 = op(upper ? column[2] : column[0], __shfl_xor_sync(0xffffffffu, give0, 4));
  const float two1 = op(upper ? column[3] : column[1], __shfl_xor_sync(0xffffffffu, give1, 4));
  const float one = op(odd ? two1 : two0, __shfl_xor_sync(0xffffffffu, odd ? two0 : two1, 8));
  return op(one, __shfl_xor_sync(0xffffffffu, one, 16));
}

struct Plus {
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct Larger {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// Pass 2, one tile: what the slices of the row block have per column.
template <RowFold kFold>
struct SliceColumns {
  static constexpr int kSlices = kFold == RowFold::kSumSlices ? kRowWarps : kRowWarps * kOctets;

  float value[kSlices][kTileKeys];
  float sum[kFold == RowFold::kMax ? kSlices : 1][kTileKeys];  // with kMax, for the attention

  // Folds a strip whose first key of this lane is `key` in the tile, and resident `at`. As LaneSums::Add.
  template <bool kMasked>
  __device__ __forceinline__ float Fold(const Logits& logits, const LaneTerms& terms, const Lane& lane, int32_t key,
                                        int32_t at) {
    // The column that this lane is left with, and whether it writes it.
    const int32_t left = key + Lane::Offset(((lane.lane & 4) != 0 ? 2 : 0) + ((lane.lane & 8) != 0 ? 1 : 0));
    const bool writes = (lane.lane & 16) == 0;
    float check = 0;
    float column[4] = {};
#pragma unroll
    for (int o = 0; o < kOctets; ++o) {
      const RowTerm term = terms.Octet(o);
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const float x = fmaf(logits.at[o][c], term.scale, -term.max);
        check = fmaf(x, 0.0f, check);
        float p = Exp2(x);
        if (kMasked) p = at + Lane::Offset(c) < term.visible ? p : 0.0f;
        column[c] = kFold == RowFold::kSumSlices ? fmaf(p, term.weight, column[c]) : p * term.weight;
      }
      if constexpr (kFold == RowFold::kSumSlices) continue;
      const int32_t slice = lane.row_warp * kOctets + o;
      const float total = OverRows(column, lane.lane, Plus());
      if constexpr (kFold == RowFold::kMax) {
        const float most = OverRows(column, lane.lane, Larger());
        if (writes) value[slice][left] = most;
        if (writes) sum[slice][left] = total;
      } else if constexpr (kFold == RowFold::kSumOctets) {
        if (writes) value[slice][left] = total;
      }
    }
    if constexpr (kFold == RowFold::kSumSlices) {
      const float total = OverRows(column, lane.lane, Plus());
      if (writes) value[lane.row_warp][left] = total;
    }
    return check;
  }
};

// The columns of a chunk while its row blocks are folded.
struct ChunkColumns {
  float open[kChunkKeys];       // of the query head whose rows are not complete
  float total[kChunkKeys];      // of the complete query heads
  float attention[kChunkKeys];  // of all rows

  // Folds a tile's slices, in order, into column `at`: key `key` of the tile.
  template <RowFold kFold>
  __device__ __forceinline__ void Add(const ScorePass& pass, int32_t row_block, const SliceColumns<kFold>& slices,
                                      int32_t key, int32_t at) {
    constexpr int32_t kRows = kBlockRows / SliceColumns<kFold>::kSlices;
    const bool first = row_block == 0;
    float column = first ? 0.0f : open[at];
    float heads = first ? 0.0f : total[at];
    float all = first ? 0.0f : attention[at];
    const int32_t begin = row_block * kBlockRows;
    const int32_t end = min(begin + kBlockRows, pass.group * pass.head_rows);
    for (int32_t row = begin; row < end; row += kRows) {
      const int32_t slice = (row - begin) / kRows;
      const float value = slices.value[slice][key];
      if constexpr (kFold == RowFold::kMax) {
        column = fmaxf(column, value);
        all += slices.sum[slice][key];
      } else {
        column += value;
        all += value;
      }
      if ((row + kRows) % pass.head_rows != 0) continue;
      const float head = column < pass.least ? 0.0f : column;
      heads = pass.max_heads ? fmaxf(heads, head) : heads + head;
      column = 0;
    }
    open[at] = column;
    total[at] = heads;
    attention[at] = all;
  }
};

}  // namespace kvsteward::engine::cuda
