#include "kernels/cpu/quadratic.h"

#include <algorithm>
#include <cmath>

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL)  // as in tiles.cc
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/quadratic.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/key_tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvsteward::engine::cpu::HWY_NAMESPACE {
namespace {
// Rows at a time: with three vectors of keys, 24 of 32 registers accumulate, or 12 of 16.
#if HWY_TARGET <= HWY_AVX3
constexpr int kFormRows = 8;
#else
constexpr int kFormRows = 4;
#endif
constexpr int32_t kFormDims = 512;  // longer sums are added up block by block

// x += k[row] * (linear[row] + sum of panel[c][row] * k[c] over `dims` columns) over kFormRows rows of a panel, `rows`
// of which there are; `linear` is null but for a row's first columns. `columns` and `own` are the tile's rows of the
// first column and of the first row.
HWY_INLINE void AddRows(const float* HWY_RESTRICT panel, const float* linear, const float* HWY_RESTRICT columns,
                        int32_t dims, const float* HWY_RESTRICT own, int32_t rows, V x[3]) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  V sum[kFormRows][3];
#pragma GCC unroll 8
  for (int row = 0; row < kFormRows; ++row) {
    sum[row][0] = sum[row][1] = sum[row][2] = linear == nullptr ? hn::Zero(d) : hn::Set(d, linear[row]);
  }
  for (int32_t c = 0; c < dims; ++c, panel += kPanelRows, columns += kTileStride) {
    const V b0 = hn::Load(d, columns);
    const V b1 = hn::Load(d, columns + lanes);
    const V b2 = hn::Load(d, columns + 2 * lanes);
#pragma GCC unroll 8
    for (int row = 0; row < kFormRows; ++row) {
      const V a = hn::Set(d, panel[row]);
      sum[row][0] = hn::MulAdd(a, b0, sum[row][0]);
      sum[row][1] = hn::MulAdd(a, b1, sum[row][1]);
      sum[row][2] = hn::MulAdd(a, b2, sum[row][2]);
    }
  }
  V total[3] = {hn::Zero(d), hn::Zero(d), hn::Zero(d)};
#pragma GCC unroll 8
  for (int row = 0; row < kFormRows; ++row, own += kTileStride) {
    if (row >= rows) break;
    for (size_t v = 0; v < 3; ++v) total[v] = hn::MulAdd(sum[row][v], hn::Load(d, own + v * lanes), total[v]);
  }
  for (size_t v = 0; v < 3; ++v) x[v] = hn::Add(x[v], total[v]);
}

// x of three vectors of the tile's keys.
HWY_INLINE void FormOf(const Quadratic& form, const float* tile, int32_t dim, float* out) {
  const D d;
  V x[3] = {hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  const float* panel = form.panels;
  for (int32_t first = 0; first < dim; first += kPanelRows) {
    for (int32_t part = 0; part < std::min(kPanelRows, dim - first); part += kFormRows) {
      const int32_t row = first + part;
      for (int32_t c = first; c < dim; c += kFormDims) {
        AddRows(panel + static_cast<size_t>(c - first) * kPanelRows + part, c == first ? form.linear + row : nullptr,
                tile + static_cast<size_t>(c) * kTileStride, std::min(kFormDims, dim - c),
                tile + static_cast<size_t>(row) * kTileStride, dim - row, x);
      }
    }
    panel += static_cast<size_t>(dim - first) * kPanelRows;
  }
  for (size_t v = 0; v < 3; ++v) hn::Store(x[v], d, out + v * hn::Lanes(d));
}

bool QuadraticChunk(const Quadratic& form, const Chunk& chunk, Scratch& scratch, float* out) {
  HWY_ALIGN float x[kTileKeys];
  const QueryRows no_rows;
  bool finite = true;
  RowCursor cursor(chunk.unit->row, static_cast<uint32_t>(chunk.begin / kBlockTokens));
  for (int32_t begin = chunk.begin; begin < chunk.end; begin += kTileKeys) {
    LoadTile(no_rows, chunk, cursor, begin, scratch);
    for (size_t key = 0; key < static_cast<size_t>(kTileKeys); key += 3 * hn::Lanes(D())) {
      FormOf(form, scratch.tile() + key, chunk.geometry->head_dim, x + key);
    }
    const int32_t keys = std::min(kTileKeys, chunk.end - begin);
    for (int32_t key = 0; key < keys; ++key) finite = finite && std::isfinite(x[key]);
    out = std::copy_n(x, keys, out);
  }
  return finite;
}

}  // namespace
}  // namespace kvsteward::engine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvsteward::engine::cpu {

HWY_EXPORT(QuadraticChunk);
bool QuadraticChunk(const Quadratic& form, const Chunk& chunk, Scratch& scratch, float* out) {
  return HWY_DYNAMIC_DISPATCH(QuadraticChunk)(form, chunk, scratch, out);
}

}  // namespace kvsteward::engine::cpu
#endif
