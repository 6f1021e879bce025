// A thread block refines one tile of a unit, reading what the step before left in the other array. A step that needs a
// number of the whole unit has the tiles' parts of it made first; every block then folds those parts once more, always
// in the same order.
#include "kernels/cuda/refine.h"

#include <cfloat>

#include "kernels/cuda/count_key.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/select.h"

namespace kvsteward::engine::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTokens = 2048;                // of a tile
constexpr int kBins = 1 << kFirstDigitBits;  // of the selection's first digit
constexpr float kLeastScore = 0x1p-100f;     // scores below it become +0
constexpr float kProtectedScore = -1.0f;     // as kProtected
constexpr int64_t kMostBlocks = 0x7fffffff;  // of a grid

// What a step needs to know of the whole unit.
enum class Whole { kNothing, kMostGamma, kMeanGamma, kMostNorm, kMeanScore };

// A step and everything it reads, by value.
struct Work {
  DevicePool pool;
  DeviceUnits units;
  DeviceCandidates candidates;
  RefineStep step;
  Whole whole;
  int32_t tiles;     // of the longest unit
  int32_t done;      // refinements before this one
  bool copy;         // no refinement: what is in goes out
  const float* in;   // [tokens]
  float* out;        // [tokens], another array
  double* parts;     // [units][tiles]
  uint64_t* bad;     // [units]
  uint32_t* counts;  // [units][kBins], or null
};

// One unit, and the tile of it that a thread block works on.
struct Tile {
  int32_t unit;
  int32_t index;
  int32_t length;
  int32_t begin;  // of the candidates
  int32_t end;
  const float* in;
  const uint32_t* blocks;
};

__device__ Tile TileOf(const Work& work) {
  Tile tile;
  tile.unit = static_cast<int32_t>(blockIdx.x / work.tiles);
  tile.index = static_cast<int32_t>(blockIdx.x % work.tiles);
  tile.length = work.units.length[tile.unit];
  tile.begin = work.candidates.begin[tile.unit];
  tile.end = work.candidates.end[tile.unit];
  tile.in = work.in + work.units.offset[tile.unit];
  tile.blocks = work.units.blocks + int64_t{tile.unit} * work.units.block_stride;
  return tile;
}

__device__ float Settled(float score) { return score < kLeastScore ? 0.0f : score; }  // NaN stays

__device__ float Nu(const Work& work, const Tile& tile, int32_t j) {
  const int64_t slot = int64_t{tile.blocks[j / kBlockTokens]} * kBlockTokens + j % kBlockTokens;
  const float norm = work.pool.norms[slot];
  return work.step.norm == RefineStep::Norm::kRootOfStored ? sqrtf(norm) : norm;
}

// The mean of value(i) over the step's pool around j, of which [begin, end) exist.
template <class Value>
__device__ float Pooled(const RefineStep& step, int32_t j, int32_t begin, int32_t end, const Value& value) {
  const int32_t half = step.pool / 2;
  const int32_t first = max(begin, j - half);
  const auto last = static_cast<int32_t>(min(int64_t{end} - 1, int64_t{j} + half));
  double sum = 0;
  for (int32_t i = first; i <= last; ++i) sum += value(i);
  const int32_t present = last - first + 1;
  // As on the host: the reciprocal where the pool is whole.
  if (step.padded || present == step.pool) return static_cast<float>(sum * (1.0 / step.pool));
  return static_cast<float>(sum / present);
}

// The value norm of a resident, averaged over its neighbours.
__device__ float Gamma(const Work& work, const Tile& tile, int32_t j) {
  if (work.step.pool == 1) return Nu(work, tile, j);
  return Pooled(work.step, j, 0, tile.length, [&](int32_t i) { return Nu(work, tile, i); });
}

// NaN wins: it must be noticed.
__device__ double Greater(double a, double b) { return a > b || a != a ? a : b; }

// Folds one number of each thread, in an order that depends on nothing. All threads get the result.
__device__ double FoldBlock(double mine, bool largest) {
  __shared__ double folded[kThreads];
  const int thread = static_cast<int>(threadIdx.x);
  folded[thread] = mine;
  for (int stride = kThreads / 2; stride > 0; stride /= 2) {
    __syncthreads();
    if (thread < stride) {
      const double other = folded[thread + stride];
      folded[thread] = largest ? Greater(folded[thread], other) : folded[thread] + other;
    }
  }
  __syncthreads();
  return folded[0];
}

__device__ bool IsLargest(Whole whole) { return whole == Whole::kMostGamma || whole == Whole::kMostNorm; }

// The tile's part of what the step needs of the whole unit.
__global__ void __launch_bounds__(kThreads, 4) FoldTiles(Work work) {
  const Tile tile = TileOf(work);
  const int64_t first = int64_t{tile.index} * kTokens;
  if (first >= tile.length) return;
  const auto last = static_cast<int32_t>(min(first + kTokens, int64_t{tile.length}));
  const bool largest = IsLargest(work.whole);
  double mine = 0;
  for (int32_t j = static_cast<int32_t>(first) + static_cast<int32_t>(threadIdx.x); j < last; j += kThreads) {
    if (work.whole != Whole::kMostGamma && (j < tile.begin || j >= tile.end)) continue;
    double value = 0;
    if (work.whole == Whole::kMeanScore) {
      value = Settled(tile.in[j]);
    } else if (work.whole == Whole::kMostNorm) {
      value = Nu(work, tile, j);
    } else {
      value = Gamma(work, tile, j);
    }
    mine = largest ? Greater(mine, value) : mine + value;
  }
  const double folded = FoldBlock(mine, largest);
  if (threadIdx.x == 0) work.parts[int64_t{tile.unit} * work.tiles + tile.index] = folded;
}

// What the step needs of the whole unit, from its tiles' parts.
__device__ double FoldParts(const Work& work, const Tile& tile) {
  const double* parts = work.parts + int64_t{tile.unit} * work.tiles;
  const auto count = static_cast<int32_t>((int64_t{tile.length} + kTokens - 1) / kTokens);
  const bool largest = IsLargest(work.whole);
  double mine = 0;
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < count; i += kThreads) {
    mine = largest ? Greater(mine, parts[i]) : mine + parts[i];
  }
  const double folded = FoldBlock(mine, largest);
  return largest ? folded : folded / (tile.end - tile.begin);  // without candidates nobody looks at it
}

// The score of candidate j after the step, not settled yet.
__device__ float Refined(const Work& work, const Tile& tile, int32_t j, double whole) {
  const float score = Settled(tile.in[j]);
  if (work.copy) return score;
  const RefineStep& step = work.step;
  switch (step.kind) {
    case RefineStep::Kind::kMaxPool: {
      const int32_t half = step.pool / 2;
      const int32_t first = max(tile.begin, j - half);
      const auto last = static_cast<int32_t>(min(int64_t{tile.end} - 1, int64_t{j} + half));
      float most = 0;
      for (int32_t i = first; i <= last; ++i) most = fmaxf(most, Settled(tile.in[i]));
      return most;
    }
    case RefineStep::Kind::kAvgPool:
      return Pooled(step, j, tile.begin, tile.end, [&](int32_t i) { return Settled(tile.in[i]); });
    case RefineStep::Kind::kValuePrior:
      if (whole == 0) return score;
      return static_cast<float>(score * (Gamma(work, tile, j) * (1 / whole)));
    case RefineStep::Kind::kValueScale:
      return static_cast<float>(score * whole);
    case RefineStep::Kind::kClampToMean: {
      const auto mean = static_cast<float>(whole);
      return score < mean ? mean : score;  // NaN stays
    }
  }
  return score;
}

__device__ void Report(const Work& work, int32_t unit, int32_t done, int32_t j) {
  static_assert(sizeof(unsigned long long) == sizeof(uint64_t));
  atomicMin(reinterpret_cast<unsigned long long*>(work.bad + unit),
            static_cast<unsigned long long>(done) << 32 | static_cast<uint32_t>(j));
}

// `kCount` for the last step, if it is to count what it writes.
template <bool kCount>
__global__ void __launch_bounds__(kThreads, 4) RefineTiles(Work work) {
  __shared__ uint32_t counts[kCount ? kBins : 1];
  const Tile tile = TileOf(work);
  const int64_t first = int64_t{tile.index} * kTokens;
  if (first >= tile.length) return;
  const auto last = static_cast<int32_t>(min(first + kTokens, int64_t{tile.length}));
  const double whole = work.whole == Whole::kNothing ? 1.0 : FoldParts(work, tile);
  float* out = work.out + work.units.offset[tile.unit];
  if constexpr (kCount) {
    for (auto bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kThreads) counts[bin] = 0;
    __syncthreads();
  }
  for (int32_t base = 0; base < kTokens; base += kThreads) {  // by all threads: they count together
    const int64_t at = first + base + static_cast<int32_t>(threadIdx.x);
    const auto j = static_cast<int32_t>(at);
    const bool candidate = at < last && j >= tile.begin && j < tile.end;
    float refined = kProtectedScore;
    if (candidate) {
      // Not finite before any refinement, or after this one; `work.done` is 0 for a copy too, which changes nothing.
      if (work.done == 0 && !(Settled(tile.in[j]) <= FLT_MAX)) Report(work, tile.unit, 0, j);
      refined = Settled(Refined(work, tile, j, whole));
      if (!(refined <= FLT_MAX)) Report(work, tile.unit, work.copy ? 0 : work.done + 1, j);
    }
    if (at < last) out[j] = refined;
    if constexpr (kCount) CountKey(counts, __float_as_uint(refined) >> (31 - kFirstDigitBits) & (kBins - 1), candidate);
  }
  if constexpr (kCount) {
    __syncthreads();
    for (auto bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kThreads) {
      if (counts[bin] != 0) atomicAdd(&work.counts[int64_t{tile.unit} * kBins + bin], counts[bin]);
    }
  }
}

Whole WholeOf(const RefineStep& step) {
  switch (step.kind) {
    case RefineStep::Kind::kValuePrior:
      if (step.scale == RefineStep::Scale::kMax) return Whole::kMostGamma;
      return step.scale == RefineStep::Scale::kMean ? Whole::kMeanGamma : Whole::kNothing;
    case RefineStep::Kind::kValueScale:
      return Whole::kMostNorm;
    case RefineStep::Kind::kClampToMean:
      return Whole::kMeanScore;
    default:
      return Whole::kNothing;
  }
}

bool HasPool(const RefineStep& step) {
  return step.kind == RefineStep::Kind::kMaxPool || step.kind == RefineStep::Kind::kAvgPool ||
         step.kind == RefineStep::Kind::kValuePrior;
}

int64_t Tiles(const DeviceUnits& units) { return (int64_t{units.longest} + kTokens - 1) / kTokens; }

}  // namespace

size_t RefineWorkspaceBytes(const DeviceUnits& units) {
  return static_cast<size_t>(units.units) * static_cast<size_t>(Tiles(units)) * sizeof(double);
}

cudaError_t LaunchRefine(const DevicePool& pool, const DeviceUnits& units, const DeviceCandidates& candidates,
                         const RefineStep* steps, int32_t count, float* scores, float* refined, uint64_t* bad,
                         void* workspace, cudaStream_t stream, uint32_t* first_counts) {
  if (units.units < 0 || units.longest < 0 || count < 0) return cudaErrorInvalidValue;
  for (int32_t i = 0; i < count; ++i) {
    if (!HasPool(steps[i])) continue;
    if (steps[i].pool < 1 || steps[i].pool % 2 == 0) return cudaErrorInvalidValue;
    if (steps[i].pool > kMostPool) return cudaErrorNotSupported;
  }
  const int64_t grid = units.units * Tiles(units);
  if (grid > kMostBlocks) return cudaErrorInvalidValue;
  if (units.units == 0) return cudaSuccess;
  if (const cudaError_t error = cudaMemsetAsync(bad, 0xff, sizeof(uint64_t) * units.units, stream);
      error != cudaSuccess) {
    return error;
  }
  if (grid == 0) return cudaSuccess;

  Work work = {.pool = pool,
               .units = units,
               .candidates = candidates,
               .step = {},
               .whole = Whole::kNothing,
               .tiles = static_cast<int32_t>(Tiles(units)),
               .done = 0,
               .copy = false,
               .in = scores,
               .out = refined,
               .parts = static_cast<double*>(workspace),
               .bad = bad,
               .counts = first_counts};
  const auto blocks = static_cast<unsigned>(grid);
  // Every step writes the other array. A copy comes first where the last would otherwise not write `refined`.
  for (int32_t i = count % 2 == 0 ? -1 : 0; i < count; ++i) {
    work.copy = i < 0;
    work.step = work.copy ? RefineStep() : steps[i];
    work.whole = work.copy ? Whole::kNothing : WholeOf(work.step);
    work.done = work.copy ? 0 : i;
    cudaError_t error = cudaSuccess;
    if (work.whole != Whole::kNothing) error = Launch(FoldTiles, blocks, kThreads, 0, stream, work);
    const bool counts = first_counts != nullptr && i == count - 1;
    if (error == cudaSuccess) {
      error = Launch(counts ? RefineTiles<true> : RefineTiles<false>, blocks, kThreads, 0, stream, work);
    }
    if (error != cudaSuccess) return error;
    work.in = work.out;
    work.out = work.out == refined ? scores : refined;
  }
  return cudaSuccess;
}

}  // namespace kvsteward::engine::cuda
