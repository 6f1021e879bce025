#include "kernels/cpu/tiles.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <optional>

#include "kernels/cpu/amx.h"
#include "kernels/policy/row.h"

// What these two add to SSE4's and AVX3's neighbours is not used here.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/tiles.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/key_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvsteward::engine::cpu::HWY_NAMESPACE {
namespace {
// Rows of the micro-kernel: with three vectors of keys, 24 of 32 registers accumulate, or 12 of 16.
#if HWY_TARGET <= HWY_AVX3
constexpr int kMicroRows = 8;
#else
constexpr int kMicroRows = 4;
#endif
constexpr int32_t kDimBlock = 512;  // longer dot products are added up block by block

// 2^x for x of at most about 100, 2^-126 below: degree 5 on [-1/2, 1/2], relative error 1e-7.
HWY_INLINE V Exp2(V x) {
  const D d;
  const hn::RebindToSigned<D> di;
  const V magic = hn::Set(d, 0x1.8p23f);  // adding it rounds to an integer, in the low bits
  x = hn::Max(x, hn::Set(d, -126.0f));
  const V rounded = hn::Add(x, magic);
  const V f = hn::Sub(x, hn::Sub(rounded, magic));
  V p = hn::MulAdd(hn::Set(d, 0.0013276472f), f, hn::Set(d, 0.0096755415f));
  p = hn::MulAdd(p, f, hn::Set(d, 0.0555071328f));
  p = hn::MulAdd(p, f, hn::Set(d, 0.240221197f));
  p = hn::MulAdd(p, f, hn::Set(d, 0.693146967f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.00000007f));
  return hn::BitCast(d, hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(hn::BitCast(di, rounded))));
}

// Logits.

// out[row][key] (+)= panel[k][row] * tile[k][key] over `dims` k, for kRows rows and three vectors of keys.
template <int kRows>
HWY_INLINE void MicroKernel(const float* HWY_RESTRICT panel, const float* HWY_RESTRICT tile, int32_t dims, bool add,
                            float* HWY_RESTRICT out) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  V sum[kRows][3];
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) sum[row][0] = sum[row][1] = sum[row][2] = hn::Zero(d);
  for (int32_t k = 0; k < dims; ++k, panel += kPanelRows, tile += kTileStride) {
    const V b0 = hn::Load(d, tile);
    const V b1 = hn::Load(d, tile + lanes);
    const V b2 = hn::Load(d, tile + 2 * lanes);
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      const V a = hn::Set(d, panel[row]);
      sum[row][0] = hn::MulAdd(a, b0, sum[row][0]);
      sum[row][1] = hn::MulAdd(a, b1, sum[row][1]);
      sum[row][2] = hn::MulAdd(a, b2, sum[row][2]);
    }
  }
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
    for (size_t v = 0; v < 3; ++v) {
      float* to = out + row * kTileStride + v * lanes;
      hn::Store(add ? hn::Add(hn::Load(d, to), sum[row][v]) : sum[row][v], d, to);
    }
  }
}

template <int kRows>
void PanelLogits(const float* panel, const float* tile, int32_t dim, float* out) {
  const size_t lanes = hn::Lanes(D());
  for (int32_t k = 0; k < dim; k += kDimBlock) {
    for (size_t key = 0; key < static_cast<size_t>(kTileKeys); key += 3 * lanes) {
      MicroKernel<kRows>(panel + k * size_t{kPanelRows}, tile + k * kTileStride + key, std::min(kDimBlock, dim - k),
                         k != 0, out + key);
    }
  }
}

// The logits of rows [first, first + count) for the tile. REQUIRES: first is a multiple of kBlockRows.
void Logits(const QueryRows& rows, int32_t first, int32_t count, Scratch& scratch, float* out) {
  if (rows.amx != nullptr) {
    return AmxLogits(rows.amx + static_cast<size_t>(first) * rows.dim, (count + kAmxRows - 1) / kAmxRows,
                     scratch.pairs(), rows.dim, out);
  }
  for (int32_t row = 0; row < count;) {
    const int32_t at = first + row;
    const float* panel = rows.panels + static_cast<size_t>(at / kPanelRows) * rows.dim * kPanelRows + at % kPanelRows;
    const int32_t left = count - row;
    int32_t done = 1;
    if (left > kMicroRows / 2 && at % kMicroRows == 0) {  // the panel's zero rows stand in for what is missing
      PanelLogits<kMicroRows>(panel, scratch.tile(), rows.dim, out + row * kTileStride);
      done = kMicroRows;
    } else if (left >= 2) {
      PanelLogits<2>(panel, scratch.tile(), rows.dim, out + row * kTileStride);
      done = 2;
    } else {
      PanelLogits<1>(panel, scratch.tile(), rows.dim, out + row * kTileStride);
    }
    row += done;
  }
}

// Calls use(first row, rows, their logits) for every block of rows, in order. A block's logits are asked for one block
// ahead: AMX works on them while the vector units are busy with the block before.
template <class Use>
HWY_INLINE void ForEachBlock(const QueryRows& rows, Scratch& scratch, const Use& use) {
  const int32_t count = rows.count();
  Logits(rows, 0, std::min(kBlockRows, count), scratch, scratch.logits(0));
  for (int32_t first = 0; first < count; first += kBlockRows) {
    const int32_t next = first + kBlockRows;
    const auto which = static_cast<size_t>(first / kBlockRows % 2);
    if (next < count) Logits(rows, next, std::min(kBlockRows, count - next), scratch, scratch.logits(1 - which));
    use(first, std::min(kBlockRows, count - first), scratch.logits(which));
  }
}

// Pass 1.

// The first `visible` of a tile's keys, as a mask for the vector at `key`.
HWY_INLINE hn::Mask<D> Visible(int32_t visible, size_t key) {
  return hn::FirstN(D(), static_cast<size_t>(std::max<int64_t>(0, int64_t{visible} - static_cast<int64_t>(key))));
}

// Adds a row's logits of one tile to its maximum and sum. The maximum only follows when it is passed by much, so that
// few tiles rescale the sum: sums stay far below overflow. `check` becomes NaN with any logit that is not finite.
template <bool kMasked>
HWY_INLINE void ReduceRow(const float* logits, float scale, int32_t visible, float& max, float* sums, V& check) {
  constexpr float kSlack = 16.0f;
  const D d;
  const size_t lanes = hn::Lanes(d);
  const V scales = hn::Set(d, scale);
  V top = hn::Set(d, -FLT_MAX);
  for (size_t key = 0; key < static_cast<size_t>(kTileKeys); key += lanes) {
    const V x = hn::Load(d, logits + key);
    check = hn::MulAdd(x, hn::Zero(d), check);
    V y = hn::Mul(x, scales);
    if constexpr (kMasked) y = hn::IfThenElse(Visible(visible, key), y, hn::Set(d, -FLT_MAX));
    top = hn::Max(top, y);
  }
  V sum = hn::Load(d, sums);
  if (HWY_UNLIKELY(!hn::AllFalse(d, hn::Gt(top, hn::Set(d, max + kSlack))))) {
    const float raised = hn::GetLane(hn::MaxOfLanes(d, top));
    sum = hn::Mul(sum, Exp2(hn::Set(d, max - raised)));
    max = raised;
  }
  const V offset = hn::Set(d, max);
  for (size_t key = 0; key < static_cast<size_t>(kTileKeys); key += lanes) {
    V p = Exp2(hn::MulSub(hn::Load(d, logits + key), scales, offset));
    if constexpr (kMasked) p = hn::IfThenElseZero(Visible(visible, key), p);
    sum = hn::Add(sum, p);
  }
  hn::Store(sum, d, sums);
}

bool ReduceChunk(const QueryRows& rows, const Chunk& chunk, Scratch& scratch, float* max, double* sum) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  std::optional<AmxScope> amx;
  if (rows.amx != nullptr) amx.emplace();
  const int32_t count = rows.count();
  std::fill_n(max, count, -FLT_MAX);
  std::fill_n(scratch.sums(), static_cast<size_t>(count) * lanes, 0.0f);
  V check = hn::Zero(d);
  RowCursor cursor(chunk.unit->row, static_cast<uint32_t>(chunk.begin / kBlockTokens));
  for (int32_t begin = chunk.begin; begin < chunk.end; begin += kTileKeys) {
    LoadTile(rows, chunk, cursor, begin, scratch);
    const bool masked = rows.min_visible - begin < kTileKeys;
    ForEachBlock(rows, scratch, [&](int32_t first, int32_t block, const float* logits) HWY_ATTR {
      for (int32_t at = first; at < first + block; ++at, logits += kTileStride) {
        float* sums = scratch.sums() + static_cast<size_t>(at) * lanes;
        if (masked) {
          ReduceRow<true>(logits, rows.scale[at], rows.visible[at] - begin, max[at], sums, check);
        } else {
          ReduceRow<false>(logits, rows.scale[at], kTileKeys, max[at], sums, check);
        }
      }
    });
  }
  bool finite = hn::AllTrue(d, hn::Eq(check, hn::Zero(d)));
  for (int32_t row = 0; row < count; ++row) {
    sum[row] = hn::GetLane(hn::SumOfLanes(d, hn::Load(d, scratch.sums() + static_cast<size_t>(row) * lanes)));
    finite = finite && std::isfinite(max[row]);
  }
  return finite;
}

// Pass 2.

// Folds the probabilities of rows [first, last) of the logits block, all of one query head, into `column` [kTileKeys].
template <bool kMasked, bool kMax>
HWY_INLINE void FoldRows(const QueryRows& rows, const float* logits, int32_t first, int32_t last, int32_t begin,
                         const float* max, const float* weight, float* column) {
  const D d;
  for (size_t key = 0; key < static_cast<size_t>(kTileKeys); key += hn::Lanes(d)) {
    V fold = hn::Zero(d);
    const float* x = logits + key;
    for (int32_t row = first; row < last; ++row, x += kTileStride) {
      V p = Exp2(hn::MulSub(hn::Load(d, x), hn::Set(d, rows.scale[row]), hn::Set(d, max[row])));
      if constexpr (kMasked) p = hn::IfThenElseZero(Visible(rows.visible[row] - begin, key), p);
      const V w = hn::Set(d, weight[row]);
      fold = kMax ? hn::Max(fold, hn::Mul(p, w)) : hn::MulAdd(p, w, fold);
    }
    const V before = hn::Load(d, column + key);
    hn::Store(kMax ? hn::Max(before, fold) : hn::Add(before, fold), d, column + key);
  }
}

// One tile's scores, before the factor, into `total` [kTileKeys].
template <bool kMasked, bool kMax>
void FoldTile(const QueryRows& rows, int32_t begin, const Fold& fold, const float* max, const float* weight,
              Scratch& scratch, float* total) {
  HWY_ALIGN float column[kTileKeys] = {};
  std::fill_n(total, kTileKeys, 0.0f);
  ForEachBlock(rows, scratch, [&](int32_t first, int32_t block, const float* logits) HWY_ATTR {
    for (int32_t row = first; row < first + block;) {
      const int32_t head_end = (row / rows.rows_per_head + 1) * rows.rows_per_head;
      const int32_t last = std::min(first + block, head_end);
      FoldRows<kMasked, kMax>(rows, logits + (row - first) * kTileStride, row, last, begin, max, weight, column);
      row = last;
      if (last != head_end) continue;
      for (int32_t key = 0; key < kTileKeys; ++key) {
        const float head = column[key] < fold.least ? 0.0f : column[key];
        total[key] = fold.max_heads ? std::max(total[key], head) : total[key] + head;
        column[key] = 0.0f;
      }
    }
  });
}

void ScoreChunk(const QueryRows& rows, const Chunk& chunk, const Fold& fold, const float* max, const float* weight,
                Scratch& scratch, float* scores) {
  HWY_ALIGN float total[kTileKeys];
  std::optional<AmxScope> amx;
  if (rows.amx != nullptr) amx.emplace();
  RowCursor cursor(chunk.unit->row, static_cast<uint32_t>(chunk.begin / kBlockTokens));
  for (int32_t begin = chunk.begin; begin < chunk.end; begin += kTileKeys) {
    LoadTile(rows, chunk, cursor, begin, scratch);
    const bool masked = rows.min_visible - begin < kTileKeys;
    const auto tile = masked ? (fold.max_rows ? FoldTile<true, true> : FoldTile<true, false>)
                             : (fold.max_rows ? FoldTile<false, true> : FoldTile<false, false>);
    tile(rows, begin, fold, max, weight, scratch, total);
    for (int32_t key = 0; key < std::min(kTileKeys, chunk.end - begin); ++key) {
      *scores++ = total[key] * fold.factor;
    }
  }
}

}  // namespace
}  // namespace kvsteward::engine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvsteward::engine::cpu {

Scratch::Scratch(int32_t dim, int32_t rows)
    : stage_(hwy::AllocateAligned<uint32_t>(Pieces(static_cast<size_t>(dim) * 4) * 4 * kTileKeys)),
      tile_(hwy::AllocateAligned<float>((static_cast<size_t>(dim) + 7) * kTileKeys)),
      logits_(hwy::AllocateAligned<float>(2 * static_cast<size_t>(kBlockRows) * kTileKeys)),
      sums_(hwy::AllocateAligned<float>(static_cast<size_t>(rows) * 16)) {}

HWY_EXPORT(ReduceChunk);
bool ReduceChunk(const QueryRows& rows, const Chunk& chunk, Scratch& scratch, float* max, double* sum) {
  return HWY_DYNAMIC_DISPATCH(ReduceChunk)(rows, chunk, scratch, max, sum);
}

HWY_EXPORT(ScoreChunk);
void ScoreChunk(const QueryRows& rows, const Chunk& chunk, const Fold& fold, const float* max, const float* weight,
                Scratch& scratch, float* scores) {
  HWY_DYNAMIC_DISPATCH(ScoreChunk)(rows, chunk, fold, max, weight, scratch, scores);
}

}  // namespace kvsteward::engine::cpu
#endif
