// Pass 2: from logits to columns. Part of tiles.cc, compiled once per instruction set with it.
#if defined(KVSTEWARD_KERNELS_CPU_FOLD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVSTEWARD_KERNELS_CPU_FOLD_INL_H_
#undef KVSTEWARD_KERNELS_CPU_FOLD_INL_H_
#else
#define KVSTEWARD_KERNELS_CPU_FOLD_INL_H_
#endif

#include <algorithm>
#include <optional>

#include "hwy/highway.h"
#include "kernels/cpu/amx.h"
#include "kernels/cpu/key_tile-inl.h"
#include "kernels/cpu/logits-inl.h"
#include "kernels/cpu/tiles.h"

HWY_BEFORE_NAMESPACE();
namespace kvsteward::engine::cpu::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

// What becomes of the probabilities of a query head's rows. kKeep keeps them apart, for what reads them twice: a pool
// over neighbours, a variance.
enum class RowFold { kSum, kMax, kKeep };

// The columns of one tile while its rows are folded, in units of 1 / kWeightUnit.
struct TileColumns {
  HWY_ALIGN float column[kTileKeys];     // of the open segment: sum, maximum or mean so far
  HWY_ALIGN float variance[kTileKeys];   // of the open query head's rows so far, in units squared
  HWY_ALIGN float other[kTileKeys];      // of the open query head's segments of another class,
  HWY_ALIGN float same[kTileKeys];       // and of the same class
  HWY_ALIGN float total[kTileKeys];      // of the closed query heads
  HWY_ALIGN float cross[kTileKeys];      // likewise
  HWY_ALIGN float self[kTileKeys];       // likewise
  HWY_ALIGN float attention[kTileKeys];  // of all rows
  HWY_ALIGN float class_of[kTileKeys];   // the residents'
  HWY_ALIGN float open[kTileKeys];       // the keys that take part, if the tile is masked
};

// Which columns of a tile are written: residents [at + from, at + to) from [from, to).
struct TileSpan {
  int64_t at = 0;
  int64_t from = 0;
  int64_t to = 0;

  // Columns of residents `at` and on, of which [begin, end) are written.
  static TileSpan Of(int64_t at, int64_t begin, int64_t end) {
    return {at, std::max<int64_t>(0, begin - at), std::min<int64_t>(kTileKeys, end - at)};
  }
};

HWY_INLINE void Emit(const float* columns, float factor, const TileSpan& span, float* out) {
  for (int64_t key = span.from; key < span.to; ++key) out[span.at + key] = columns[key] * factor;
}

// Folds the probabilities of rows [first, last) of the logits, all of one segment, into the column, or keeps them in
// `kept`, from one row to the next `stride` apart.
template <bool kMasked, RowFold kFold, bool kAttention>
HWY_INLINE void FoldRows(const QueryRows& rows, const Fold& fold, const float* logits, int32_t first, int32_t last,
                         int32_t begin, TileColumns& tile, float* kept, size_t stride) {
  constexpr int kLeast = kFold == RowFold::kKeep ? -104 : -126;  // so that squares are not subnormal
  const D d;
  // By value: what is stored might be them, as far as the compiler knows.
  const float* const scale = fold.scale;
  const float* const max = fold.max;
  const float* const weight = fold.weight;
  const float* const share = fold.share;
  for (size_t key = 0; key < static_cast<size_t>(kTileKeys); key += hn::Lanes(d)) {
    V column = hn::Zero(d);
    V attention = hn::Zero(d);
    const float* x = logits + key;
    float* keep = kept + key;
    for (int32_t row = first; row < last; ++row, x += kTileStride, keep += stride) {
      V p = Exp2<kLeast>(hn::MulSub(hn::Load(d, x), hn::Set(d, scale[row]), hn::Set(d, max[row])));
      if constexpr (kMasked) p = hn::IfThenElseZero(Seen(rows.visible[row] - begin, tile.open, key), p);
      const V w = hn::Set(d, weight[row]);
      if constexpr (kFold == RowFold::kSum) column = hn::MulAdd(p, w, column);
      if constexpr (kFold == RowFold::kMax) column = hn::Max(column, hn::Mul(p, w));
      if constexpr (kFold == RowFold::kKeep) hn::Store(hn::Mul(p, w), d, keep);
      if constexpr (kAttention) attention = hn::MulAdd(p, hn::Set(d, share[row]), attention);
    }
    if constexpr (kFold != RowFold::kKeep) {
      const V before = hn::Load(d, tile.column + key);
      hn::Store(kFold == RowFold::kMax ? hn::Max(before, column) : hn::Add(before, column), d, tile.column + key);
    }
    if constexpr (kAttention) {
      hn::Store(hn::Add(hn::Load(d, tile.attention + key), attention), d, tile.attention + key);
    }
  }
}

// Pools: a line holds kHistory columns before the tile and then the tile's; its pool of the `width` columns up to and
// with `key` is that of the resident width / 2 earlier.

// Calls use(row, pools) for each line, with the pools of the three vectors of columns from `key`.
template <class Use>
HWY_INLINE void ForEachPool(int32_t width, int32_t lines, const float* line, size_t key, const Use& use) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  const float* from = line + Scratch::kHistory + key;
  for (int32_t row = 0; row < lines; ++row, from += Scratch::kLine) {
    V a = hn::Load(d, from);
    V b = hn::Load(d, from + lanes);
    V c = hn::Load(d, from + 2 * lanes);
    for (int32_t back = 1; back < width; ++back) {
      a = hn::Add(a, hn::LoadU(d, from - back));
      b = hn::Add(b, hn::LoadU(d, from + lanes - back));
      c = hn::Add(c, hn::LoadU(d, from + 2 * lanes - back));
    }
    use(row, a, b, c);
  }
}

HWY_INLINE void Store3(V a, V b, V c, float* to) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  hn::Store(a, d, to);
  hn::Store(b, d, to + lanes);
  hn::Store(c, d, to + 2 * lanes);
}

inline void PoolLines(int32_t width, int32_t lines, const float* line, float* out) {
  for (size_t key = 0; key < static_cast<size_t>(kTileKeys); key += 3 * hn::Lanes(D())) {
    ForEachPool(width, lines, line, key,
                [&](int32_t row, V a, V b, V c) HWY_ATTR { Store3(a, b, c, out + row * kTileStride + key); });
  }
}

// Folds the pools of `lines` lines into their maximum.
inline void FoldPooledMax(int32_t width, int32_t lines, const float* line, float* column) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  for (size_t key = 0; key < static_cast<size_t>(kTileKeys); key += 3 * lanes, column += 3 * lanes) {
    V top_a = hn::Load(d, column);
    V top_b = hn::Load(d, column + lanes);
    V top_c = hn::Load(d, column + 2 * lanes);
    ForEachPool(width, lines, line, key, [&](int32_t, V a, V b, V c) HWY_ATTR {
      top_a = hn::Max(top_a, a);
      top_b = hn::Max(top_b, b);
      top_c = hn::Max(top_c, c);
    });
    Store3(top_a, top_b, top_c, column);
  }
}

// Copies as much history of `lines` lines as pools of `width` reach.
inline void CopyHistory(int32_t width, int32_t lines, const float* from, size_t from_stride, float* to,
                        size_t to_stride) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  const size_t first = Scratch::kHistory - hwy::RoundUpTo(static_cast<size_t>(width - 1), lanes);
  for (int32_t row = 0; row < lines; ++row, from += from_stride, to += to_stride) {
    for (size_t at = first; at < Scratch::kHistory; at += lanes) hn::Store(hn::Load(d, from + at), d, to + at);
  }
}

// Folds `rows` rows of values, of which `before` were folded before, into the mean and the population variance,
// without cancellation.
inline void FoldVariance(int32_t rows, int32_t before, const float* values, TileColumns& tile) {
  const D d;
  const V count = hn::Set(d, static_cast<float>(rows));
  const float part = static_cast<float>(rows) / static_cast<float>(before + rows);
  const V part_of_all = hn::Set(d, part);
  const V rest = hn::Set(d, 1 - part);
  for (size_t key = 0; key < static_cast<size_t>(kTileKeys); key += hn::Lanes(d)) {
    const float* column = values + key;
    V mean = hn::Zero(d);
    for (int32_t row = 0; row < rows; ++row) mean = hn::Add(mean, hn::Load(d, column + row * kTileStride));
    mean = hn::Div(mean, count);
    V variance = hn::Zero(d);
    for (int32_t row = 0; row < rows; ++row) {
      const V off = hn::Sub(hn::Load(d, column + row * kTileStride), mean);
      variance = hn::MulAdd(off, off, variance);
    }
    variance = hn::Div(variance, count);
    const V mean_before = hn::Load(d, tile.column + key);
    const V step = hn::Mul(hn::Sub(mean, mean_before), part_of_all);
    const V between = hn::Mul(hn::Mul(step, hn::Sub(mean, mean_before)), rest);
    variance = hn::MulAdd(variance, part_of_all, hn::MulAdd(hn::Load(d, tile.variance + key), rest, between));
    hn::Store(hn::Add(mean_before, step), d, tile.column + key);
    hn::Store(variance, d, tile.variance + key);
  }
}

// A segment is complete: pools it where that is left, and adds it to its class.
template <RowFold kFold, bool kAttention>
HWY_INLINE void CloseSegment(const Fold& fold, size_t segment, bool classes, Scratch& scratch, TileColumns& tile) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  if constexpr (kFold != RowFold::kSum) return;
  if constexpr (!kAttention) {
    for (int32_t key = 0; key < kTileKeys; ++key) tile.attention[key] += tile.column[key];
  }
  if (fold.row_pool > 1) {
    float* line = scratch.lines();
    CopyHistory(fold.row_pool, 1, scratch.history(segment), 0, line, 0);
    std::copy_n(tile.column, kTileKeys, line + Scratch::kHistory);
    PoolLines(fold.row_pool, 1, line, tile.column);
    CopyHistory(fold.row_pool, 1, line + kTileKeys, 0, scratch.history(segment), 0);
  }
  if (!classes) return;
  const V row_class = hn::Set(d, fold.segments[segment].row_class);
  for (size_t key = 0; key < static_cast<size_t>(kTileKeys); key += lanes) {
    const V column = hn::Load(d, tile.column + key);
    const auto same = hn::Eq(hn::Load(d, tile.class_of + key), row_class);
    hn::Store(hn::Add(hn::Load(d, tile.same + key), hn::IfThenElseZero(same, column)), d, tile.same + key);
    hn::Store(hn::Add(hn::Load(d, tile.other + key), hn::IfThenZeroElse(same, column)), d, tile.other + key);
    hn::Store(hn::Zero(d), d, tile.column + key);
  }
}

// All rows of a query head are folded: its score goes to the group's.
template <RowFold kFold>
HWY_INLINE void CloseHead(const Fold& fold, const Columns& out, float* by_head, const TileSpan& span,
                          TileColumns& tile) {
  if (kFold == RowFold::kKeep && fold.rows == Fold::Rows::kMeanVar) {
    for (int32_t key = 0; key < kTileKeys; ++key) {
      tile.column[key] += fold.gamma * tile.variance[key];
      tile.variance[key] = 0.0f;
    }
  }
  if (out.classes != nullptr) {
    for (int32_t key = 0; key < kTileKeys; ++key) {
      tile.cross[key] += tile.other[key] < fold.least ? 0.0f : tile.other[key];
      tile.self[key] += tile.same[key] < fold.least ? 0.0f : tile.same[key];
      tile.other[key] = tile.same[key] = 0.0f;
    }
    return;
  }
  for (int32_t key = 0; key < kTileKeys; ++key) {
    const float head = tile.column[key] < fold.least ? 0.0f : tile.column[key];
    tile.total[key] = fold.max_heads ? std::max(tile.total[key], head) : tile.total[key] + head;
    tile.column[key] = 0.0f;
  }
  if (by_head == nullptr) return;
  Emit(tile.total, fold.factor, span, by_head);
  std::fill_n(tile.total, kTileKeys, 0.0f);
}

// Folds one tile. `length`: of the unit.
template <bool kMasked, RowFold kFold, bool kAttention>
void FoldTile(const QueryRows& rows, const Fold& fold, const Columns& out, int64_t length, const TileSpan& span,
              int32_t begin, Scratch& scratch, TileColumns& tile) {
  size_t segment = 0;
  int32_t head = 0;
  ForEachBlock(rows, scratch, [&](int32_t first, int32_t block, float* logits) HWY_ATTR {
    for (int32_t row = first; row < first + block;) {
      const int32_t end = fold.segments[segment].end;
      const int32_t last = std::min(first + block, end);
      float* x = logits + (row - first) * kTileStride;
      if constexpr (kFold == RowFold::kKeep) {
        const bool pools = fold.row_pool > 1;
        float* lines = scratch.lines();
        float* history = pools ? scratch.history(static_cast<size_t>(row)) : nullptr;
        // Each step is done for all rows: memory that was just written in other pieces is slow to load.
        if (pools) CopyHistory(fold.row_pool, last - row, history, Scratch::kHistory, lines, Scratch::kLine);
        FoldRows<kMasked, kFold, kAttention>(rows, fold, x, row, last, begin, tile,
                                             pools ? lines + Scratch::kHistory : x,
                                             pools ? Scratch::kLine : kTileStride);
        if (fold.rows == Fold::Rows::kMax) {
          FoldPooledMax(fold.row_pool, last - row, lines, tile.column);
        } else {
          if (pools) PoolLines(fold.row_pool, last - row, lines, x);
          FoldVariance(last - row, row % rows.rows_per_head, x, tile);
        }
        if (pools) {
          CopyHistory(fold.row_pool, last - row, lines + kTileKeys, Scratch::kLine, history, Scratch::kHistory);
        }
      } else {
        FoldRows<kMasked, kFold, kAttention>(rows, fold, x, row, last, begin, tile, nullptr, 0);
      }
      row = last;
      if (last != end) continue;
      CloseSegment<kFold, kAttention>(fold, segment++, out.classes != nullptr, scratch, tile);
      if (last % rows.rows_per_head != 0) continue;
      CloseHead<kFold>(fold, out, out.by_head == nullptr ? nullptr : out.by_head + head * length, span, tile);
      ++head;
    }
  });
}

template <bool kMasked>
auto TileFolder(const Fold& fold, bool attention) {
  if (fold.rows == Fold::Rows::kMeanVar || (fold.rows == Fold::Rows::kMax && fold.row_pool > 1)) {
    return attention ? FoldTile<kMasked, RowFold::kKeep, true> : FoldTile<kMasked, RowFold::kKeep, false>;
  }
  if (fold.rows == Fold::Rows::kMax) {
    return attention ? FoldTile<kMasked, RowFold::kMax, true> : FoldTile<kMasked, RowFold::kMax, false>;
  }
  // Sums that are not pooled are the attention themselves, up to a factor.
  return attention && fold.row_pool > 1 ? FoldTile<kMasked, RowFold::kSum, true>
                                        : FoldTile<kMasked, RowFold::kSum, false>;
}

void FoldChunk(const QueryRows& rows, const Chunk& chunk, const Fold& fold, Scratch& scratch, const Columns& out) {
  const int32_t delay = fold.row_pool / 2;
  const int32_t length = chunk.unit->length;
  const int64_t drain = chunk.end == length ? delay : 0;  // columns that the unit's last tile leaves undone
  const bool warm_up = delay > 0 && chunk.begin > 0;
  const auto folder = TileFolder<false>(fold, out.attention != nullptr);
  const auto masked_folder = TileFolder<true>(fold, out.attention != nullptr);
  if (delay > 0) std::fill_n(scratch.history(0), static_cast<size_t>(rows.count()) * Scratch::kHistory, 0.0f);
  TileColumns tile = {};
  std::optional<AmxScope> amx;
  if (rows.amx != nullptr) amx.emplace();
  int32_t begin = chunk.begin - (warm_up ? kTileKeys : 0);
  RowCursor cursor(chunk.unit->row, static_cast<uint32_t>(begin / kBlockTokens));
  for (; begin < chunk.end + drain; begin += kTileKeys) {
    LoadTile(rows, chunk, cursor, begin, scratch);
    const TileSpan span = TileSpan::Of(begin - delay, std::max(0, chunk.begin - delay), chunk.end - delay + drain);
    if (out.classes != nullptr) {
      for (int64_t key = span.from; key < span.to; ++key) tile.class_of[key] = out.classes[span.at + key];
    }
    (Masked(rows, begin, tile.open) ? masked_folder : folder)(rows, fold, out, length, span, begin, scratch, tile);
    if (out.classes != nullptr) {
      Emit(tile.cross, fold.factor, span, out.cross);
      Emit(tile.self, fold.factor, span, out.self);
      for (int64_t key = span.from; key < span.to; ++key) {
        out.scores[span.at + key] = out.cross[span.at + key] + out.self[span.at + key];
      }
      std::fill_n(tile.cross, kTileKeys, 0.0f);
      std::fill_n(tile.self, kTileKeys, 0.0f);
    } else if (out.scores != nullptr) {
      Emit(tile.total, fold.factor, span, out.scores);
      std::fill_n(tile.total, kTileKeys, 0.0f);
    }
    if (out.attention != nullptr) {
      Emit(tile.attention, fold.attention_factor, TileSpan::Of(begin, chunk.begin, chunk.end), out.attention);
    }
    std::fill_n(tile.attention, kTileKeys, 0.0f);
  }
}

}  // namespace
}  // namespace kvsteward::engine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
