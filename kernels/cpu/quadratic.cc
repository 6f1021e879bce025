#include "kernels/cpu/quadratic.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <optional>

#include "kernels/cpu/amx.h"

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

// x += k . (linear + y) over one pair of the tile's dimensions, for as many keys as vectors have lanes.
HWY_INLINE V AddPair(const uint32_t* pairs, const float* y, const float* linear, V x) {
  const D d;
  const DU du;
  const auto words = hn::Load(du, pairs);
  const V even = hn::BitCast(d, hn::ShiftLeft<16>(words));
  const V odd = hn::BitCast(d, hn::And(words, hn::Set(du, 0xffff0000u)));
  x = hn::MulAdd(even, hn::Add(hn::Load(d, y), hn::Set(d, linear[0])), x);
  return hn::MulAdd(odd, hn::Add(hn::Load(d, y + kTileStride), hn::Set(d, linear[1])), x);
}

// x of the tile's keys by AMX, which works on the next rows while the vectors fold those before.
void FormByAmx(const Quadratic& form, int32_t dim, Scratch& scratch, float* x) {
  const D d;
  constexpr int32_t kColumns = 2 * kAmxPairs;  // of a tile register
  std::fill_n(x, kTileKeys, 0.0f);
  const uint16_t* parts = form.parts;
  const auto ask = [&](int32_t row) {
    const int32_t first = row / kColumns * kColumns;
    AmxSplitLogits(parts, scratch.pairs() + static_cast<size_t>(first / 2) * kTileStride, dim - first,
                   scratch.logits(static_cast<size_t>(row / kAmxRows % 2)));
    parts += static_cast<size_t>(kAmxParts) * kAmxRows * static_cast<size_t>(dim - first);
  };
  ask(0);
  for (int32_t row = 0; row < dim; row += kAmxRows) {
    if (row + kAmxRows < dim) ask(row + kAmxRows);
    const float* y = scratch.logits(static_cast<size_t>(row / kAmxRows % 2));
    for (size_t key = 0; key < static_cast<size_t>(kTileKeys); key += hn::Lanes(d)) {
      V sum = hn::Zero(d);
      for (int32_t i = 0; i < kAmxRows; i += 2) {
        sum = AddPair(scratch.pairs() + static_cast<size_t>((row + i) / 2) * kTileStride + key,
                      y + static_cast<size_t>(i) * kTileStride + key, form.linear + row + i, sum);
      }
      hn::Store(hn::Add(hn::Load(d, x + key), sum), d, x + key);
    }
  }
}

bool QuadraticChunk(std::span<const Quadratic> forms, const Chunk& chunk, Scratch& scratch, float* out, size_t stride) {
  HWY_ALIGN float x[kTileKeys];
  const int32_t dim = chunk.geometry->head_dim;
  QueryRows rows;  // says only how keys are laid out
  rows.amx = forms[0].parts;
  std::optional<AmxScope> amx;
  if (rows.amx != nullptr) amx.emplace();
  bool finite = true;
  RowCursor cursor(chunk.unit->row, static_cast<uint32_t>(chunk.begin / kBlockTokens));
  for (int32_t begin = chunk.begin; begin < chunk.end; begin += kTileKeys, out += kTileKeys) {
    LoadTile(rows, chunk, cursor, begin, scratch);
    const int32_t keys = std::min(kTileKeys, chunk.end - begin);
    for (size_t i = 0; i < forms.size(); ++i) {
      if (amx.has_value()) {
        FormByAmx(forms[i], dim, scratch, x);
      } else {
        for (size_t key = 0; key < static_cast<size_t>(kTileKeys); key += 3 * hn::Lanes(D())) {
          FormOf(forms[i], scratch.tile() + key, dim, x + key);
        }
      }
      for (int32_t key = 0; key < keys; ++key) finite = finite && std::isfinite(x[key]);
      std::copy_n(x, keys, out + i * stride);
    }
  }
  return finite;
}

}  // namespace
}  // namespace kvsteward::engine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvsteward::engine::cpu {
namespace {

// The upper half of a float is the bf16 next to it towards 0: three of them hold its 24 bits.
uint16_t UpperHalf(float value) { return static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16); }
float FromUpperHalf(uint16_t half) { return std::bit_cast<float>(static_cast<uint32_t>(half) << 16); }

}  // namespace

std::vector<uint16_t> SplitPanels(int32_t dim, std::span<const float> panels) {
  // No part is subnormal. A subnormal key is as good as 0 then: at most 2^-96 is lost of the sum that another key k is
  // multiplied by, which matters only if k is so large that k^2 on the diagonal is beyond all that this could change.
  constexpr float kLeast = 0x1p-100f;
  constexpr float kMost = 0x1p30f;
  constexpr float kLeastOnDiagonal = 0x1p-30f;
  constexpr int32_t kColumns = 2 * kAmxPairs;
  std::vector<uint16_t> parts;
  const float* panel = panels.data();
  size_t block = 0;  // where the parts of a tile register's rows begin
  for (int32_t row = 0; row < dim; ++row) {
    const int32_t first = row / kColumns * kColumns;
    const auto columns = static_cast<size_t>(dim - first);
    if (row % kAmxRows == 0) {
      block = parts.size();
      parts.resize(block + kAmxParts * kAmxRows * columns);
    }
    const int32_t panel_first = row / kPanelRows * kPanelRows;
    bool any = false;
    for (int32_t column = row; column < dim; ++column) {
      const float value = panel[(column - panel_first) * kPanelRows + row - panel_first];
      const float size = std::fabs(value);
      if (size == 0) continue;
      if (size < kLeast || size > kMost) return {};
      any = true;
      float rest = value;
      for (size_t part = 0; part < kAmxParts; ++part) {
        const uint16_t half = UpperHalf(rest);
        const size_t reg = static_cast<size_t>((column - first) / kColumns) * kAmxParts + part;
        parts[block + (reg * kAmxRows + static_cast<size_t>(row % kAmxRows)) * kColumns +
              static_cast<size_t>(column % kColumns)] = half;
        rest -= FromUpperHalf(half);
      }
    }
    const float diagonal = panel[(row - panel_first) * kPanelRows + row - panel_first];
    if (any && std::fabs(diagonal) < kLeastOnDiagonal) return {};
    if (row % kPanelRows == kPanelRows - 1) panel += static_cast<size_t>(dim - panel_first) * kPanelRows;
  }
  return parts;
}

HWY_EXPORT(QuadraticChunk);
bool QuadraticChunk(std::span<const Quadratic> forms, const Chunk& chunk, Scratch& scratch, float* out, size_t stride) {
  return HWY_DYNAMIC_DISPATCH(QuadraticChunk)(forms, chunk, scratch, out, stride);
}

}  // namespace kvsteward::engine::cpu
#endif
