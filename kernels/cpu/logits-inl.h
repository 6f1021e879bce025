// Logits of query rows against a tile of keys, the exponential over them, and which of them count: part of tiles.cc,
// compiled once per instruction set with it.
#if defined(KVSTEWARD_KERNELS_CPU_LOGITS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVSTEWARD_KERNELS_CPU_LOGITS_INL_H_
#undef KVSTEWARD_KERNELS_CPU_LOGITS_INL_H_
#else
#define KVSTEWARD_KERNELS_CPU_LOGITS_INL_H_
#endif

#include <algorithm>

#include "hwy/highway.h"
#include "kernels/cpu/amx.h"
#include "kernels/cpu/key_tile-inl.h"
#include "kernels/cpu/tiles.h"

HWY_BEFORE_NAMESPACE();
namespace kvsteward::engine::cpu::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

// Rows of the micro-kernel: with three vectors of keys, 24 of 32 registers accumulate, or 12 of 16.
#if HWY_TARGET <= HWY_AVX3
constexpr int kMicroRows = 8;
#else
constexpr int kMicroRows = 4;
#endif
constexpr int32_t kDimBlock = 512;  // longer dot products are added up block by block

// 2^x for x of at most about 100, 2^kLeast below kLeast: degree 5 on [-1/2, 1/2], relative error 1e-7.
template <int kLeast = -126>
HWY_INLINE V Exp2(V x) {
  const D d;
  const hn::RebindToSigned<D> di;
  const V magic = hn::Set(d, 0x1.8p23f);  // adding it rounds to an integer, in the low bits
  x = hn::Max(x, hn::Set(d, kLeast));
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

// Which of a tile's keys take part for a row that sees the first `visible` of them, as a mask for the vector at `key`.
HWY_INLINE hn::Mask<D> Seen(int32_t visible, const float* open, size_t key) {
  const D d;
  const auto first =
      hn::FirstN(d, static_cast<size_t>(std::max<int64_t>(0, int64_t{visible} - static_cast<int64_t>(key))));
  return hn::And(first, hn::Ne(hn::Load(d, open + key), hn::Zero(d)));
}

// Whether some row does not see some key of the tile; if so, `open` [kTileKeys] says with 1 or 0 which keys take part.
inline bool Masked(const QueryRows& rows, int32_t begin, float* open) {
  const int32_t end = begin + kTileKeys;
  const bool unseen = rows.min_visible < end;
  const CandidateSet* set = rows.open;
  if (set == nullptr) {
    if (unseen) std::fill_n(open, kTileKeys, 1.0f);
    return unseen;
  }
  auto hole = std::lower_bound(set->holes.begin(), set->holes.end(), begin);
  const bool holed = hole != set->holes.end() && *hole < end;
  if (!unseen && !holed && set->begin <= begin && end <= set->end) return false;
  for (int32_t j = begin; j < end; ++j) open[j - begin] = set->begin <= j && j < set->end ? 1.0f : 0.0f;
  for (; hole != set->holes.end() && *hole < end; ++hole) open[*hole - begin] = 0.0f;
  return true;
}

}  // namespace
}  // namespace kvsteward::engine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
