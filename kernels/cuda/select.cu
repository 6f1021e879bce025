// The passes around the search for the cuts: the workspace, then per tile how many stay, then the keep bits and lists,
// each tile's behind those of the tiles before it.
#include "kernels/cuda/select.h"

#include "kernels/cuda/launch.h"
#include "kernels/cuda/radix.h"

namespace kvsteward::engine::cuda {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kLanes = 32;
constexpr int kWarps = kTileThreads / kLanes;
constexpr int kWarpTokens = kLanes * kTileKeys;
constexpr int kWordBits = 64;
constexpr int64_t kMostBlocks = 0x7fffffff;  // of a grid
static_assert(kTileTokens % kWordBits == 0 && kWarpTokens % kWordBits == 0 && kTileKeys % 2 == 0);

// Neighbouring residents of one unit, a warp's part of a tile: lane l has residents first + 32 i + l.
struct WarpTokens {
  int64_t first;
  int64_t length;  // of the unit
  int32_t keys[kTileKeys];

  __device__ bool there(int i) const { return first + i * kLanes + threadIdx.x % kLanes < length; }
  // Of the lanes' residents i: what stays whatever the ties, protected tokens too, and the ties.
  __device__ unsigned sure(int i, int32_t cut) const {
    return __ballot_sync(kAllLanes, there(i) && (keys[i] < 0 || keys[i] > cut));
  }
  __device__ unsigned ties(int i, int32_t cut) const { return __ballot_sync(kAllLanes, there(i) && keys[i] == cut); }
};

// By all threads of a block. REQUIRES: the tile begins within the unit.
__device__ WarpTokens LoadTokens(const SelectWork& work, int32_t unit, int32_t tile) {
  WarpTokens tokens;
  const int64_t begin = work.offset[unit];
  tokens.length = work.offset[unit + 1] - begin;
  tokens.first = int64_t{tile} * kTileTokens + threadIdx.x / kLanes * kWarpTokens;
  const float* scores = work.scores + begin + tokens.first + threadIdx.x % kLanes;
#pragma unroll
  for (int i = 0; i < kTileKeys; ++i) tokens.keys[i] = tokens.there(i) ? __float_as_int(scores[i * kLanes]) : 0;
  return tokens;
}

__device__ TileCount CountWarp(const WarpTokens& tokens, int32_t cut) {
  TileCount count = {0, 0};
#pragma unroll
  for (int i = 0; i < kTileKeys; ++i) {
    count.sure += __popc(tokens.sure(i, cut));
    count.ties += __popc(tokens.ties(i, cut));
  }
  return count;
}

__global__ void __launch_bounds__(kTileThreads) CountTiles(SelectWork work) {
  const auto unit = static_cast<int32_t>(blockIdx.x / work.tiles);
  const auto tile = static_cast<int32_t>(blockIdx.x % work.tiles);
  if (int64_t{tile} * kTileTokens >= work.offset[unit + 1] - work.offset[unit]) return;
  __shared__ TileCount sum;
  if (threadIdx.x == 0) sum = {0, 0};
  __syncthreads();
  const TileCount count = CountWarp(LoadTokens(work, unit, tile), static_cast<int32_t>(work.cuts[unit].key));
  if (threadIdx.x % kLanes == 0) {
    atomicAdd(&sum.sure, count.sure);
    atomicAdd(&sum.ties, count.ties);
  }
  __syncthreads();
  if (threadIdx.x == 0) work.tile_counts[int64_t{unit} * work.tiles + tile] = sum;
}

// By all threads of a block: how many residents of the layer's earlier units stay.
__device__ int64_t KeptBefore(const SelectWork& work, int32_t unit) {
  __shared__ unsigned long long sum;
  if (threadIdx.x == 0) sum = 0;
  __syncthreads();
  unsigned long long mine = 0;
  for (int32_t u = unit - unit % work.heads + static_cast<int32_t>(threadIdx.x); u < unit; u += kTileThreads) {
    mine += static_cast<unsigned long long>(work.out.kept[u]);
  }
  if (mine != 0) atomicAdd(&sum, mine);
  __syncthreads();
  return static_cast<int64_t>(sum);
}

// By all threads of a block: what lies before this warp's tokens in the unit.
__device__ TileCount CountBefore(const SelectWork& work, int32_t unit, int32_t tile, TileCount own) {
  __shared__ TileCount tiles_before;
  __shared__ TileCount warps[kWarps];
  if (threadIdx.x == 0) tiles_before = {0, 0};
  const auto warp = static_cast<int>(threadIdx.x / kLanes);
  if (threadIdx.x % kLanes == 0) warps[warp] = own;
  __syncthreads();
  const TileCount* counts = work.tile_counts + int64_t{unit} * work.tiles;
  TileCount mine = {0, 0};
  for (auto i = static_cast<int32_t>(threadIdx.x); i < tile; i += kTileThreads) {
    mine.sure += counts[i].sure;
    mine.ties += counts[i].ties;
  }
  mine.sure = __reduce_add_sync(kAllLanes, mine.sure);
  mine.ties = __reduce_add_sync(kAllLanes, mine.ties);
  if (threadIdx.x % kLanes == 0) {
    atomicAdd(&tiles_before.sure, mine.sure);
    atomicAdd(&tiles_before.ties, mine.ties);
  }
  __syncthreads();
  TileCount before = tiles_before;
  for (int i = 0; i < warp; ++i) {
    before.sure += warps[i].sure;
    before.ties += warps[i].ties;
  }
  return before;
}

__global__ void __launch_bounds__(kTileThreads) EmitTiles(SelectWork work) {
  const auto unit = static_cast<int32_t>(blockIdx.x / work.tiles);
  const auto tile = static_cast<int32_t>(blockIdx.x % work.tiles);
  if (int64_t{tile} * kTileTokens >= work.offset[unit + 1] - work.offset[unit]) return;
  const auto cut = static_cast<int32_t>(work.cuts[unit].key);
  const int32_t most_ties = work.cuts[unit].ties;
  const WarpTokens tokens = LoadTokens(work, unit, tile);
  const TileCount before = CountBefore(work, unit, tile, CountWarp(tokens, cut));
  int32_t ties_before = before.ties;
  int64_t kept_before = int64_t{before.sure} + min(before.ties, most_ties);

  const auto lane = static_cast<int>(threadIdx.x % kLanes);
  const unsigned lower_lanes = (1u << lane) - 1;
  const int64_t words = (tokens.length + kWordBits - 1) / kWordBits;
  uint64_t* mask = work.out.mask + work.out.mask_offset[unit];
  int32_t* list = nullptr;
  int64_t capacity = 0;
  if (work.out.list != nullptr) {
    const int64_t* of_layer = work.out.list_offset + unit / work.heads;
    const int64_t begin = of_layer[0] + KeptBefore(work, unit);
    list = work.out.list + begin;
    capacity = of_layer[1] - begin;
  }
  uint64_t word = 0;
#pragma unroll
  for (int i = 0; i < kTileKeys; ++i) {
    const unsigned ties = tokens.ties(i, cut);
    const bool tie_stays = (ties >> lane & 1) != 0 && ties_before + __popc(ties & lower_lanes) < most_ties;
    const unsigned kept = tokens.sure(i, cut) | __ballot_sync(kAllLanes, tie_stays);
    const int64_t first = tokens.first + i * kLanes;
    const int64_t place = kept_before + __popc(kept & lower_lanes);
    if ((kept >> lane & 1) != 0 && place < capacity) list[place] = static_cast<int32_t>(first + lane);
    ties_before += __popc(ties);
    kept_before += __popc(kept);
    word = i % 2 == 0 ? uint64_t{kept} : word | uint64_t{kept} << kLanes;
    if (i % 2 == 1 && lane == 0 && first / kWordBits < words) mask[first / kWordBits] = word;
  }
}

// Hands out a workspace from its beginning. Without one it only adds up.
class Carver {
 public:
  explicit Carver(void* workspace) : base_(static_cast<std::byte*>(workspace)) {}
  template <class T>
  T* Take(int64_t count) {
    T* taken = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + size_);
    size_ += (static_cast<size_t>(count) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return taken;
  }
  size_t size() const { return size_; }

 private:
  static constexpr size_t kAlignment = 256;
  std::byte* base_;
  size_t size_ = 0;
};

// The counts of all digits come first.
SelectWork WorkOf(const DeviceUnits& units, Carver& carver) {
  SelectWork work;
  work.units = units.units;
  work.heads = units.kv_heads;
  work.tiles = static_cast<int32_t>((int64_t{units.longest} + kTileTokens - 1) / kTileTokens);
  work.offset = units.offset;
  for (int digit = 0; digit < kDigits; ++digit) {
    work.counts[digit] = carver.Take<uint32_t>(units.units * DigitBins(digit));
  }
  work.cuts = carver.Take<UnitCut>(units.units);
  work.tile_counts = carver.Take<TileCount>(int64_t{units.units} * work.tiles);
  work.totals = carver.Take<int64_t>(units.units);
  work.caps = carver.Take<int64_t>(units.units);
  work.shares = carver.Take<int64_t>(units.units);
  work.order = carver.Take<int32_t>(units.units);
  return work;
}

}  // namespace

size_t SelectWorkspaceBytes(const DeviceUnits& units) {
  Carver carver(nullptr);
  WorkOf(units, carver);
  return carver.size();
}

uint32_t* FirstCounts(const DeviceUnits& units, void* workspace) {
  Carver carver(workspace);
  return WorkOf(units, carver).counts[0];
}

cudaError_t ClearCounts(const DeviceUnits& units, void* workspace, cudaStream_t stream) {
  Carver carver(workspace);
  const SelectWork work = WorkOf(units, carver);
  const auto bytes = static_cast<size_t>(reinterpret_cast<std::byte*>(work.cuts) - static_cast<std::byte*>(workspace));
  return cudaMemsetAsync(workspace, 0, bytes, stream);
}

cudaError_t LaunchSelect(const DeviceUnits& units, const SelectRule& rule, const float* scores, const Selected& out,
                         void* workspace, cudaStream_t stream, FirstDigit first_digit) {
  if (units.units == 0) return cudaSuccess;
  if (units.units < 0 || units.longest < 0 || units.kv_heads < 1 || units.units % units.kv_heads != 0 ||
      workspace == nullptr) {
    return cudaErrorInvalidValue;
  }
  if ((rule.kind == SelectRule::Kind::kGiven ? rule.shares : rule.totals) == nullptr) return cudaErrorInvalidValue;
  if (rule.alpha_ppm < 0 || rule.alpha_ppm > 1'000'000) return cudaErrorInvalidValue;
  Carver carver(workspace);
  SelectWork work = WorkOf(units, carver);
  work.scores = scores;
  work.rule = rule;
  work.out = out;
  work.first_digit = first_digit;
  const int64_t tiles = int64_t{work.units} * work.tiles;
  if (tiles > kMostBlocks) return cudaErrorInvalidValue;

  if (first_digit == FirstDigit::kToCount) {
    if (const cudaError_t error = ClearCounts(units, workspace, stream); error != cudaSuccess) return error;
  }
  if (const cudaError_t error = LaunchSearch(work, stream); error != cudaSuccess) return error;
  if (tiles == 0) return cudaSuccess;
  const auto blocks = static_cast<unsigned>(tiles);
  if (const cudaError_t error = Launch(CountTiles, blocks, kTileThreads, 0, stream, work); error != cudaSuccess) {
    return error;
  }
  return Launch(EmitTiles, blocks, kTileThreads, 0, stream, work);
}

}  // namespace kvsteward::engine::cuda
