#include "kernels/cpu/tiles.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <optional>

#include "kernels/cpu/amx.h"
#include "kernels/cpu/element.h"
#include "kernels/policy/row.h"

// What these two add to SSE4's and AVX3's neighbours is not used here.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/tiles.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace kvsteward::engine::cpu::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<float, 16>;
using V = hn::Vec<D>;
using DU = hn::RebindToUnsigned<D>;

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

// Tiles of keys.

// The tokens of one tile as 16-byte pieces, [piece][key], zeros after the row's last byte and the last token.
void StageTile(const Chunk& chunk, RowCursor& cursor, int32_t begin, uint32_t* stage) {
  const size_t bytes = chunk.geometry->token_bytes();
  const size_t whole = bytes / 16;
  const size_t rest = bytes % 16;
  auto* out = reinterpret_cast<std::byte*>(stage);
  constexpr size_t kStride = static_cast<size_t>(kTileKeys) * 16;
  const int32_t keys = std::min(kTileKeys, chunk.end - begin);
  const std::byte* token = nullptr;
  for (int32_t key = 0; key < keys; ++key, token += bytes, out += 16) {
    if (key % kBlockTokens == 0) {
      token = chunk.pool->keys(cursor.block());
      cursor.Next();
    }
    for (size_t piece = 0; piece < whole; ++piece) std::memcpy(out + piece * kStride, token + piece * 16, 16);
    if (rest != 0) {
      std::memset(out + whole * kStride, 0, 16);
      std::memcpy(out + whole * kStride, token + whole * 16, rest);
    }
  }
  for (int32_t key = keys; key < kTileKeys; ++key, out += 16) {
    for (size_t piece = 0; piece < Scratch::Pieces(bytes); ++piece) std::memset(out + piece * kStride, 0, 16);
  }
}

// Stores 4 bytes of each of the vector's keys as one dimension (float32) or two of the tile.
template <DType kType>
HWY_INLINE void StoreWord(hn::Vec<DU> word, float* tile, size_t index) {
  const D d;
  const DU du;
  if constexpr (kType == DType::kF32) {
    hn::Store(hn::BitCast(d, word), d, tile + index * kTileKeys);
  } else if constexpr (kType == DType::kBF16) {
    hn::Store(hn::BitCast(d, hn::ShiftLeft<16>(word)), d, tile + 2 * index * kTileKeys);
    hn::Store(hn::BitCast(d, hn::And(word, hn::Set(du, 0xffff0000u))), d, tile + (2 * index + 1) * kTileKeys);
  } else {
    const hn::Rebind<uint16_t, D> du16;
    const hn::Rebind<hwy::float16_t, D> df16;
    const auto even = hn::TruncateTo(du16, word);
    const auto odd = hn::TruncateTo(du16, hn::ShiftRight<16>(word));
    hn::Store(hn::PromoteTo(d, hn::BitCast(df16, even)), d, tile + 2 * index * kTileKeys);
    hn::Store(hn::PromoteTo(d, hn::BitCast(df16, odd)), d, tile + (2 * index + 1) * kTileKeys);
  }
}

// Staged tokens to float32, transposed: tile [dim][key].
template <DType kType>
void TransposeTile(const uint32_t* stage, size_t token_bytes, float* tile) {
  const DU du;
  const size_t lanes = hn::Lanes(du);
  for (size_t piece = 0; piece < Scratch::Pieces(token_bytes); ++piece) {
    for (size_t key = 0; key < static_cast<size_t>(kTileKeys); key += lanes) {
      hn::Vec<DU> a, b, c, e;
      hn::LoadInterleaved4(du, stage + (piece * kTileKeys + key) * 4, a, b, c, e);
      StoreWord<kType>(a, tile + key, piece * 4);
      StoreWord<kType>(b, tile + key, piece * 4 + 1);
      StoreWord<kType>(c, tile + key, piece * 4 + 2);
      StoreWord<kType>(e, tile + key, piece * 4 + 3);
    }
  }
}

// Staged tokens transposed word by word: pairs [dim / 2][key].
void TransposePairs(const uint32_t* stage, size_t token_bytes, uint32_t* pairs) {
  const DU du;
  const size_t lanes = hn::Lanes(du);
  for (size_t piece = 0; piece < Scratch::Pieces(token_bytes); ++piece) {
    for (size_t key = 0; key < static_cast<size_t>(kTileKeys); key += lanes) {
      hn::Vec<DU> a, b, c, e;
      hn::LoadInterleaved4(du, stage + (piece * kTileKeys + key) * 4, a, b, c, e);
      uint32_t* to = pairs + piece * 4 * kTileKeys + key;
      hn::Store(a, du, to);
      hn::Store(b, du, to + kTileKeys);
      hn::Store(c, du, to + 2 * kTileKeys);
      hn::Store(e, du, to + 3 * kTileKeys);
    }
  }
}

void LoadTile(const QueryRows& rows, const Chunk& chunk, RowCursor& cursor, int32_t begin, Scratch& scratch) {
  StageTile(chunk, cursor, begin, scratch.stage());
  const size_t bytes = chunk.geometry->token_bytes();
  if (rows.amx != nullptr) return TransposePairs(scratch.stage(), bytes, scratch.pairs());
  switch (chunk.geometry->dtype) {
    case DType::kF32:
      return TransposeTile<DType::kF32>(scratch.stage(), bytes, scratch.tile());
    case DType::kF16:
      return TransposeTile<DType::kF16>(scratch.stage(), bytes, scratch.tile());
    case DType::kBF16:
      return TransposeTile<DType::kBF16>(scratch.stage(), bytes, scratch.tile());
  }
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
  for (int32_t k = 0; k < dims; ++k, panel += kPanelRows, tile += kTileKeys) {
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
      float* to = out + row * kTileKeys + v * lanes;
      hn::Store(add ? hn::Add(hn::Load(d, to), sum[row][v]) : sum[row][v], d, to);
    }
  }
}

template <int kRows>
void PanelLogits(const float* panel, const float* tile, int32_t dim, float* out) {
  const size_t lanes = hn::Lanes(D());
  for (int32_t k = 0; k < dim; k += kDimBlock) {
    for (size_t key = 0; key < static_cast<size_t>(kTileKeys); key += 3 * lanes) {
      MicroKernel<kRows>(panel + k * kPanelRows, tile + k * kTileKeys + key, std::min(kDimBlock, dim - k), k != 0,
                         out + key);
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
      PanelLogits<kMicroRows>(panel, scratch.tile(), rows.dim, out + row * kTileKeys);
      done = kMicroRows;
    } else if (left >= 2) {
      PanelLogits<2>(panel, scratch.tile(), rows.dim, out + row * kTileKeys);
      done = 2;
    } else {
      PanelLogits<1>(panel, scratch.tile(), rows.dim, out + row * kTileKeys);
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
    const int which = first / kBlockRows % 2;
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
      for (int32_t at = first; at < first + block; ++at, logits += kTileKeys) {
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
    for (int32_t row = first; row < last; ++row, x += kTileKeys) {
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
void FoldTile(const QueryRows& rows, int32_t begin, bool max_heads, const float* max, const float* weight,
              Scratch& scratch, float* total) {
  HWY_ALIGN float column[kTileKeys] = {};
  std::fill_n(total, kTileKeys, 0.0f);
  ForEachBlock(rows, scratch, [&](int32_t first, int32_t block, const float* logits) HWY_ATTR {
    for (int32_t row = first; row < first + block;) {
      const int32_t head_end = (row / rows.rows_per_head + 1) * rows.rows_per_head;
      const int32_t last = std::min(first + block, head_end);
      FoldRows<kMasked, kMax>(rows, logits + (row - first) * kTileKeys, row, last, begin, max, weight, column);
      row = last;
      if (last != head_end) continue;
      for (int32_t key = 0; key < kTileKeys; ++key) {
        total[key] = max_heads ? std::max(total[key], column[key]) : total[key] + column[key];
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
    tile(rows, begin, fold.max_heads, max, weight, scratch, total);
    for (int32_t key = 0; key < std::min(kTileKeys, chunk.end - begin); ++key) {
      const float score = total[key] * fold.factor;
      *scores++ = score >= kLeastScore * kWeightUnit ? score * (1 / kWeightUnit) : 0.0f;
    }
  }
}

// Value norms.

template <DType kType>
HWY_INLINE V LoadFloats(const std::byte* from) {
  const D d;
  if constexpr (kType == DType::kF32) {
    return hn::LoadU(d, reinterpret_cast<const float*>(from));
  } else {
    using T = std::conditional_t<kType == DType::kF16, hwy::float16_t, hwy::bfloat16_t>;
    const hn::Rebind<uint16_t, D> du16;
    const hn::Rebind<T, D> dt;
    return hn::PromoteTo(d, hn::BitCast(dt, hn::LoadU(du16, reinterpret_cast<const uint16_t*>(from))));
  }
}

template <DType kType>
float SquaredNorm(const std::byte* values, size_t dim) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  double total = 0;
  size_t k = 0;
  while (dim - k >= lanes) {
    V sum = hn::Zero(d);
    for (const size_t block_end = std::min<size_t>(dim, k + kDimBlock); k + lanes <= block_end; k += lanes) {
      const V v = LoadFloats<kType>(values + k * SizeOf(kType));
      sum = hn::MulAdd(v, v, sum);
    }
    total += hn::GetLane(hn::SumOfLanes(d, sum));
  }
  for (; k < dim; ++k) {
    const float v = Element(kType, values, k);
    total += double{v} * v;
  }
  return static_cast<float>(total);
}

template <DType kType>
int32_t Norms(const Chunk& chunk) {
  RowCursor cursor(chunk.unit->row, static_cast<uint32_t>(chunk.begin / kBlockTokens));
  const size_t bytes = chunk.geometry->token_bytes();
  const auto dim = static_cast<size_t>(chunk.geometry->head_dim);
  int32_t bad = -1;
  for (int32_t j = chunk.begin; j < chunk.end; ++j) {
    const uint32_t block = cursor.block();
    const auto slot = static_cast<size_t>(j % kBlockTokens);
    const float norm = SquaredNorm<kType>(chunk.pool->values(block) + slot * bytes, dim);
    chunk.pool->norms[static_cast<size_t>(block) * kBlockTokens + slot] = norm;
    if (bad < 0 && !std::isfinite(norm)) bad = j;
    if (slot == kBlockTokens - 1) cursor.Next();
  }
  return bad;
}

int32_t NormChunk(const Chunk& chunk) {
  switch (chunk.geometry->dtype) {
    case DType::kF32:
      return Norms<DType::kF32>(chunk);
    case DType::kF16:
      return Norms<DType::kF16>(chunk);
    case DType::kBF16:
      break;
  }
  return Norms<DType::kBF16>(chunk);
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

HWY_EXPORT(NormChunk);
int32_t NormChunk(const Chunk& chunk) { return HWY_DYNAMIC_DISPATCH(NormChunk)(chunk); }

}  // namespace kvsteward::engine::cpu
#endif
