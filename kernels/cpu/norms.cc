// Value norms, compiled for several instruction sets.
#include "kernels/cpu/norms.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu/bad_numbers.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/side_array.h"
#include "kernels/cpu/tiles.h"
#include "kernels/plan/row.h"

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL)  // as in tiles.cc
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/norms.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/load-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvsteward::engine::cpu::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<float, 16>;
using V = hn::Vec<D>;

constexpr size_t kDimBlock = 512;  // longer sums are added up block by block

// The sum of squares, or of magnitudes.
template <DType kType, bool kSquares>
float NormOf(const std::byte* values, size_t dim) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  double total = 0;
  size_t k = 0;
  while (dim - k >= lanes) {
    V sum = hn::Zero(d);
    for (const size_t block_end = std::min<size_t>(dim, k + kDimBlock); k + lanes <= block_end; k += lanes) {
      const V v = LoadFloats<kType>(d, values + k * SizeOf(kType));
      sum = kSquares ? hn::MulAdd(v, v, sum) : hn::Add(hn::Abs(v), sum);
    }
    total += hn::GetLane(hn::SumOfLanes(d, sum));
  }
  for (; k < dim; ++k) {
    const double v = Element(kType, values, k);
    total += kSquares ? v * v : std::fabs(v);
  }
  return static_cast<float>(total);
}

template <DType kType, bool kSquares>
int32_t Norms(const Chunk& chunk) {
  RowCursor cursor(chunk.unit->row, static_cast<uint32_t>(chunk.begin / kBlockTokens));
  const size_t bytes = chunk.geometry->token_bytes();
  const auto dim = static_cast<size_t>(chunk.geometry->head_dim);
  int32_t bad = -1;
  for (int32_t j = chunk.begin; j < chunk.end; ++j) {
    const uint32_t block = cursor.block();
    const auto slot = static_cast<size_t>(j % kBlockTokens);
    const float norm = NormOf<kType, kSquares>(chunk.pool->values(block) + slot * bytes, dim);
    chunk.pool->norms[static_cast<size_t>(block) * kBlockTokens + slot] = norm;
    if (bad < 0 && !std::isfinite(norm)) bad = j;
    if (slot == kBlockTokens - 1) cursor.Next();
  }
  return bad;
}

int32_t NormChunk(const Chunk& chunk, bool squares) {
  switch (chunk.geometry->dtype) {
    case DType::kF32:
      return squares ? Norms<DType::kF32, true>(chunk) : Norms<DType::kF32, false>(chunk);
    case DType::kF16:
      return squares ? Norms<DType::kF16, true>(chunk) : Norms<DType::kF16, false>(chunk);
    case DType::kBF16:
      break;
  }
  return squares ? Norms<DType::kBF16, true>(chunk) : Norms<DType::kBF16, false>(chunk);
}

}  // namespace
}  // namespace kvsteward::engine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvsteward::engine::cpu {
namespace {

constexpr int32_t kTaskKeys = 32 * kTileKeys;

// Writes the norms of the chunk's residents. The first resident whose norm is not finite, or -1.
HWY_EXPORT(NormChunk);

}  // namespace

absl::Status FillNorms(const SequenceView& sequence, int32_t layer, Norm kind, ThreadPool& threads) {
  struct Task {
    int32_t head;
    Chunk chunk;
    int32_t bad = -1;
  };
  std::vector<Task> tasks;
  for (int32_t head = 0; head < sequence.geometry.kv_heads; ++head) {
    const UnitView& unit = sequence.units[static_cast<size_t>(layer) * sequence.geometry.kv_heads + head];
    for (int64_t begin = sequence.normed_kind == kind ? unit.normed : 0; begin < unit.length; begin += kTaskKeys) {
      const auto end = static_cast<int32_t>(std::min<int64_t>(unit.length, begin + kTaskKeys));
      tasks.push_back({head, {&sequence.geometry, &sequence.pool, &unit, static_cast<int32_t>(begin), end}});
    }
  }
  threads.ParallelFor(static_cast<int64_t>(tasks.size()), [&](int64_t i, int) {
    Task& task = tasks[static_cast<size_t>(i)];
    if (!sequence.stopped()) task.bad = HWY_DYNAMIC_DISPATCH(NormChunk)(task.chunk, kind == Norm::kL2Squared);
  });
  if (sequence.stopped()) return absl::CancelledError("scoring was stopped within a layer");
  for (const Task& task : tasks) {
    if (task.bad >= 0) return BadValue(layer, task.head, task.bad);
  }
  return absl::OkStatus();
}

void LoadNorms(const PoolView& pool, const UnitView& unit, Norm norm, int32_t begin, std::span<float> out) {
  LoadSide<float>(pool.norms, unit, begin, out);
  if (norm != Norm::kL2) return;
  for (float& value : out) value = std::sqrt(value);
}

}  // namespace kvsteward::engine::cpu
#endif
