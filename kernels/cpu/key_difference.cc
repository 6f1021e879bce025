// Compiled for several instruction sets. Two passes over the keys: their directions are added up by chunk, the chunks
// in order; then each key is compared with the sum.
#include "kernels/cpu/key_difference.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu/bad_numbers.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/tiles.h"
#include "kernels/plan/row.h"

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL)  // as in tiles.cc
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/key_difference.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/load-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvsteward::engine::cpu::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<double, 8>;
using DF = hn::Rebind<float, D>;
using V = hn::Vec<D>;

template <DType kType>
HWY_INLINE V LoadDoubles(const std::byte* from) {
  return hn::PromoteTo(D(), LoadFloats<kType>(DF(), from));
}

// k . with (k . k if `with` is null).
template <DType kType>
double Dot(const std::byte* key, const double* with, size_t dim) {
  const D d;
  V sum = hn::Zero(d);
  size_t x = 0;
  for (; x + hn::Lanes(d) <= dim; x += hn::Lanes(d)) {
    const V k = LoadDoubles<kType>(key + x * SizeOf(kType));
    sum = hn::MulAdd(k, with == nullptr ? k : hn::LoadU(d, with + x), sum);
  }
  double total = hn::GetLane(hn::SumOfLanes(d, sum));
  for (; x < dim; ++x) {
    const double k = Element(kType, key, x);
    total += k * (with == nullptr ? k : with[x]);
  }
  return total;
}

template <DType kType>
void AddScaled(const std::byte* key, double factor, size_t dim, double* sum) {
  const D d;
  size_t x = 0;
  for (; x + hn::Lanes(d) <= dim; x += hn::Lanes(d)) {
    const V k = LoadDoubles<kType>(key + x * SizeOf(kType));
    hn::StoreU(hn::MulAdd(k, hn::Set(d, factor), hn::LoadU(d, sum + x)), d, sum + x);
  }
  for (; x < dim; ++x) sum[x] += factor * Element(kType, key, x);
}

template <class Body>
HWY_INLINE void ForEachKey(const Chunk& chunk, const Body& body) {
  RowCursor cursor(chunk.unit->row, static_cast<uint32_t>(chunk.begin / kBlockTokens));
  const size_t bytes = chunk.geometry->token_bytes();
  for (int32_t j = chunk.begin; j < chunk.end; ++j) {
    const auto slot = static_cast<size_t>(j % kBlockTokens);
    body(j, chunk.pool->keys(cursor.block()) + slot * bytes);
    if (slot == kBlockTokens - 1) cursor.Next();
  }
}

template <DType kType>
int32_t AddDirections(const Chunk& chunk, double* sum) {
  const auto dim = static_cast<size_t>(chunk.geometry->head_dim);
  int32_t bad = -1;
  ForEachKey(chunk, [&](int32_t j, const std::byte* key) HWY_ATTR {
    const double square = Dot<kType>(key, nullptr, dim);
    if (bad < 0 && !std::isfinite(square)) bad = j;
    if (square > 0) AddScaled<kType>(key, 1 / std::sqrt(square), dim, sum);
  });
  return bad;
}

template <DType kType>
void Differences(const Chunk& chunk, const double* direction, float* out) {
  const auto dim = static_cast<size_t>(chunk.geometry->head_dim);
  ForEachKey(chunk, [&](int32_t, const std::byte* key) HWY_ATTR {
    const double square = Dot<kType>(key, nullptr, dim);
    const double cosine = square > 0 ? Dot<kType>(key, direction, dim) / std::sqrt(square) : 0;
    *out++ = static_cast<float>(std::max(0.0, 1 - cosine));
  });
}

int32_t AddDirectionsOf(const Chunk& chunk, double* sum) {
  switch (chunk.geometry->dtype) {
    case DType::kF32:
      return AddDirections<DType::kF32>(chunk, sum);
    case DType::kF16:
      return AddDirections<DType::kF16>(chunk, sum);
    case DType::kBF16:
      break;
  }
  return AddDirections<DType::kBF16>(chunk, sum);
}

void DifferencesOf(const Chunk& chunk, const double* direction, float* out) {
  switch (chunk.geometry->dtype) {
    case DType::kF32:
      return Differences<DType::kF32>(chunk, direction, out);
    case DType::kF16:
      return Differences<DType::kF16>(chunk, direction, out);
    case DType::kBF16:
      return Differences<DType::kBF16>(chunk, direction, out);
  }
}

}  // namespace
}  // namespace kvsteward::engine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvsteward::engine::cpu {
namespace {

constexpr int32_t kTaskKeys = 32 * kTileKeys;

// Adds k / ||k|| of the chunk's keys to sum [dim]; a zero key adds nothing. The first key that is not finite, or -1.
HWY_EXPORT(AddDirectionsOf);
// max(0, 1 - k . direction / ||k||) of the chunk's keys.
HWY_EXPORT(DifferencesOf);

struct Task {
  int32_t head;
  Chunk chunk;
  float* scores;
  int32_t bad = -1;
};

std::vector<Task> TasksOf(const SequenceView& sequence, int32_t layer, std::span<float> scores) {
  std::vector<Task> tasks;
  float* next = scores.data();
  for (int32_t head = 0; head < sequence.geometry.kv_heads; ++head) {
    const UnitView& unit = sequence.units[static_cast<size_t>(layer) * sequence.geometry.kv_heads + head];
    for (int64_t begin = 0; begin < unit.length; begin += kTaskKeys) {
      const auto end = static_cast<int32_t>(std::min<int64_t>(unit.length, begin + kTaskKeys));
      tasks.push_back({head, {&sequence.geometry, &sequence.pool, &unit, static_cast<int32_t>(begin), end}, next});
      next += end - begin;
    }
  }
  return tasks;
}

// Unit vectors; 0 where the sum is 0.
void Normalise(std::span<double> sum) {
  double square = 0;
  for (const double x : sum) square += x * x;
  for (double& x : sum) x = square > 0 ? x / std::sqrt(square) : 0;
}

}  // namespace

absl::Status ScoreKeyDifference(const SequenceView& sequence, int32_t layer, ThreadPool& threads,
                                std::span<float> scores) {
  const auto dim = static_cast<size_t>(sequence.geometry.head_dim);
  const auto heads = static_cast<size_t>(sequence.geometry.kv_heads);
  std::vector<Task> tasks = TasksOf(sequence, layer, scores);
  const auto count = static_cast<int64_t>(tasks.size());
  std::vector<double> parts(tasks.size() * dim);
  threads.ParallelFor(count, [&](int64_t i, int) {
    if (sequence.stopped()) return;
    Task& task = tasks[static_cast<size_t>(i)];
    task.bad = HWY_DYNAMIC_DISPATCH(AddDirectionsOf)(task.chunk, &parts[static_cast<size_t>(i) * dim]);
  });
  std::vector<double> directions(heads * dim);
  for (size_t i = 0; i < tasks.size(); ++i) {
    if (tasks[i].bad >= 0) return BadKey(layer, tasks[i].head, tasks[i].bad);
    for (size_t x = 0; x < dim; ++x) directions[static_cast<size_t>(tasks[i].head) * dim + x] += parts[i * dim + x];
  }
  for (size_t head = 0; head < heads; ++head) Normalise(std::span(directions).subspan(head * dim, dim));
  threads.ParallelFor(count, [&](int64_t i, int) {
    if (sequence.stopped()) return;
    const Task& task = tasks[static_cast<size_t>(i)];
    HWY_DYNAMIC_DISPATCH(DifferencesOf)(task.chunk, &directions[static_cast<size_t>(task.head) * dim], task.scores);
  });
  if (sequence.stopped()) return absl::CancelledError("scoring was stopped within a layer");
  return absl::OkStatus();
}

}  // namespace kvsteward::engine::cpu
#endif
