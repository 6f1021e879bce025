#include "kernels/cpu/tiles.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <optional>

#include "kernels/cpu/amx.h"
#include "kernels/plan/row.h"

// What these two add to SSE4's and AVX3's neighbours is not used here.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/tiles.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/fold-inl.h"
#include "kernels/cpu/key_tile-inl.h"
#include "kernels/cpu/logits-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvsteward::engine::cpu::HWY_NAMESPACE {
namespace {

// Adds a row's logits of one tile to its maximum and sum. The maximum only follows when it is passed by much, so that
// few tiles rescale the sum: sums stay far below overflow. `check` becomes NaN with any logit that is not finite.
template <bool kMasked>
HWY_INLINE void ReduceRow(const float* logits, float scale, int32_t visible, const float* open, float& max, float* sums,
                          V& check) {
  constexpr float kSlack = 16.0f;
  const D d;
  const size_t lanes = hn::Lanes(d);
  const V scales = hn::Set(d, scale);
  V top = hn::Set(d, -FLT_MAX);
  for (size_t key = 0; key < static_cast<size_t>(kTileKeys); key += lanes) {
    const V x = hn::Load(d, logits + key);
    check = hn::MulAdd(x, hn::Zero(d), check);
    V y = hn::Mul(x, scales);
    if constexpr (kMasked) y = hn::IfThenElse(Seen(visible, open, key), y, hn::Set(d, -FLT_MAX));
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
    if constexpr (kMasked) p = hn::IfThenElseZero(Seen(visible, open, key), p);
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
  HWY_ALIGN float open[kTileKeys];
  RowCursor cursor(chunk.unit->row, static_cast<uint32_t>(chunk.begin / kBlockTokens));
  for (int32_t begin = chunk.begin; begin < chunk.end; begin += kTileKeys) {
    LoadTile(rows, chunk, cursor, begin, scratch);
    const bool masked = Masked(rows, begin, open);
    ForEachBlock(rows, scratch, [&](int32_t first, int32_t block, const float* logits) HWY_ATTR {
      for (int32_t at = first; at < first + block; ++at, logits += kTileStride) {
        float* sums = scratch.sums() + static_cast<size_t>(at) * lanes;
        if (masked) {
          ReduceRow<true>(logits, rows.scale[at], rows.visible[at] - begin, open, max[at], sums, check);
        } else {
          ReduceRow<false>(logits, rows.scale[at], kTileKeys, open, max[at], sums, check);
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

}  // namespace
}  // namespace kvsteward::engine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvsteward::engine::cpu {

Scratch::Scratch(int32_t dim, int32_t rows, bool pools)
    : stage_(hwy::AllocateAligned<uint32_t>(Pieces(static_cast<size_t>(dim) * 4) * 4 * kTileKeys)),
      tile_(hwy::AllocateAligned<float>((static_cast<size_t>(dim) + 7) * kTileKeys)),
      logits_(hwy::AllocateAligned<float>(2 * static_cast<size_t>(kBlockRows) * kTileKeys)),
      sums_(hwy::AllocateAligned<float>(static_cast<size_t>(rows) * 16)),
      lines_(hwy::AllocateAligned<float>(static_cast<size_t>(kBlockRows) * kLine)) {
  if (pools) history_ = hwy::AllocateAligned<float>(static_cast<size_t>(rows) * kHistory);
}

HWY_EXPORT(ReduceChunk);
bool ReduceChunk(const QueryRows& rows, const Chunk& chunk, Scratch& scratch, float* max, double* sum) {
  return HWY_DYNAMIC_DISPATCH(ReduceChunk)(rows, chunk, scratch, max, sum);
}

HWY_EXPORT(FoldChunk);
void FoldChunk(const QueryRows& rows, const Chunk& chunk, const Fold& fold, Scratch& scratch, const Columns& columns) {
  HWY_DYNAMIC_DISPATCH(FoldChunk)(rows, chunk, fold, scratch, columns);
}

}  // namespace kvsteward::engine::cpu
#endif
