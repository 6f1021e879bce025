// Value norms, compiled for several instruction sets: see NormChunk() in tiles.h.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "kernels/cpu/element.h"
#include "kernels/cpu/tiles.h"
#include "kernels/policy/row.h"

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL)  // as in tiles.cc
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/norms.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace kvsteward::engine::cpu::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<float, 16>;
using V = hn::Vec<D>;

constexpr size_t kDimBlock = 512;  // longer sums are added up block by block

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

HWY_EXPORT(NormChunk);
int32_t NormChunk(const Chunk& chunk) { return HWY_DYNAMIC_DISPATCH(NormChunk)(chunk); }

}  // namespace kvsteward::engine::cpu
#endif
