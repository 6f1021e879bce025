// Two kernels per digit: one counts it, a thread block per tile; one fixes it, a thread block per layer.
#include "kernels/cuda/radix.h"

#include "kernels/cuda/allot.cuh"
#include "kernels/cuda/count_key.cuh"
#include "kernels/cuda/launch.h"

namespace kvsteward::engine::cuda {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kLanes = 32;
constexpr int kLayerThreads = 512;
constexpr uint32_t kNoKey = 0x80000000u;  // as of a mark, which is not counted

// Adds each unit's scores that start with the digits fixed so far to the counts of the next digit's values.
template <int kDigit>
__global__ void __launch_bounds__(kTileThreads) CountDigit(SelectWork work) {
  constexpr int kBins = 1 << kDigitBits[kDigit];
  constexpr int kShift = kDigitShift[kDigit];
  __shared__ uint32_t counts[kBins];
  const auto unit = static_cast<int32_t>(blockIdx.x / work.tiles);
  const int64_t first = int64_t{blockIdx.x % work.tiles} * kTileTokens;
  const int64_t begin = work.offset[unit];
  const int64_t left = work.offset[unit + 1] - begin - first;
  if (left <= 0) return;
  const auto thread = static_cast<int>(threadIdx.x);
  for (int bin = thread; bin < kBins; bin += kTileThreads) counts[bin] = 0;

  const uint32_t start = kDigit == 0 ? 0 : work.cuts[unit].key;
  const float* scores = work.scores + begin + first;
  uint32_t keys[kTileKeys];
#pragma unroll
  for (int i = 0; i < kTileKeys; ++i) {
    const int j = i * kTileThreads + thread;
    keys[i] = j < left ? __float_as_uint(scores[j]) : kNoKey;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kTileKeys; ++i) {
    const bool counted = (keys[i] ^ start) >> (kShift + kDigitBits[kDigit]) == 0;  // the sign is above the first digit
    const uint32_t bin = keys[i] >> kShift & (kBins - 1);
    CountKey(counts, bin, counted);
  }
  __syncthreads();
  uint32_t* unit_counts = work.counts[kDigit] + int64_t{unit} * kBins;
  for (int bin = thread; bin < kBins; bin += kTileThreads) {
    if (counts[bin] != 0) atomicAdd(&unit_counts[bin], counts[bin]);
  }
}

// The sum of the lanes' values up to this one's.
template <class T>
__device__ T ScanWarp(T value) {
  const auto lane = static_cast<int>(threadIdx.x % kLanes);
#pragma unroll
  for (int distance = 1; distance < kLanes; distance *= 2) {
    const T other = __shfl_up_sync(kAllLanes, value, distance);
    if (lane >= distance) value += other;
  }
  return value;
}

// By one warp: counts of values become counts of that value or a greater one.
template <int kBins>
__device__ void AccumulateFromTop(uint32_t* counts) {
  constexpr int kStep = 4 * kLanes;
  const auto lane = static_cast<int>(threadIdx.x % kLanes);
  uint32_t higher = 0;
#pragma unroll 4
  for (int end = kBins; end > 0; end -= kStep) {
    uint4* place = reinterpret_cast<uint4*>(counts + end - kStep) + (kLanes - 1 - lane);  // lane 0 has the greatest
    uint4 four = *place;
    four.z += four.w;
    four.y += four.z;
    four.x += four.y;
    const uint32_t through = ScanWarp(four.x);
    const uint32_t before = higher + through - four.x;
    four.x += before;
    four.y += before;
    four.z += before;
    four.w += before;
    *place = four;
    higher += __shfl_sync(kAllLanes, through, kLanes - 1);
  }
}

// By all threads: the units' sizes and bounds, from what the first digit's counts add up to.
__device__ void SetBounds(const SelectWork& work, UnitCut* cuts, const uint32_t* counts) {
  __shared__ unsigned long long available;
  if (threadIdx.x == 0) available = 0;
  __syncthreads();
  for (auto head = static_cast<int32_t>(threadIdx.x); head < work.heads; head += kLayerThreads) {
    UnitCut cut;
    cut.size = static_cast<int32_t>(counts[int64_t{head} * DigitBins(0)]);
    atomicAdd(&available, static_cast<unsigned long long>(cut.size));
    if (work.rule.kind == SelectRule::Kind::kGiven) {
      const int64_t share = work.rule.shares[int64_t{blockIdx.x} * work.heads + head];
      cut.bound = static_cast<int32_t>(max(int64_t{0}, min(share, int64_t{cut.size})));
    }
    cut.alone = work.rule.kind == SelectRule::Kind::kGiven || work.rule.kind == SelectRule::Kind::kUniform;
    cuts[head] = cut;
  }
  __syncthreads();
  if (work.rule.kind == SelectRule::Kind::kGiven) return;
  const int64_t total = max(int64_t{0}, min(work.rule.totals[blockIdx.x], static_cast<int64_t>(available)));
  if (threadIdx.x == 0) work.totals[blockIdx.x] = total;
  if (work.rule.kind == SelectRule::Kind::kUniform) {
    AllotUniform(work, cuts, total);
  } else if (work.rule.kind == SelectRule::Kind::kAdaFloor) {
    const int64_t floor = work.rule.alpha_ppm * total / (kOne * work.heads);
    for (auto head = static_cast<int32_t>(threadIdx.x); head < work.heads; head += kLayerThreads) {
      cuts[head].bound = static_cast<int32_t>(min(int64_t{cuts[head].size}, floor));
    }
  }
}

// By all threads: the greatest value of the digit at which the layer's joint selection reaches its total.
template <int kBins>
__device__ int JointBin(const SelectWork& work, const UnitCut* cuts, const uint32_t* counts) {
  __shared__ int joint;
  if (threadIdx.x == 0) joint = 0;
  __syncthreads();
  const int64_t total = work.totals[blockIdx.x];
  int mine = 0;
  for (auto bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kLayerThreads) {
    int64_t given = 0;
    for (int32_t head = 0; head < work.heads; ++head) {
      const UnitCut& cut = cuts[head];
      const int32_t reached = cut.above + static_cast<int32_t>(counts[int64_t{head} * kBins + bin]);
      given += cut.alone != 0 ? cut.bound : max(cut.bound, reached);
    }
    if (given >= total) mine = bin;  // bins ascend
  }
  mine = __reduce_max_sync(kAllLanes, mine);
  if (threadIdx.x % kLanes == 0) atomicMax(&joint, mine);
  __syncthreads();
  return joint;
}

// By all threads: fixes the digit of each unit.
template <int kDigit>
__device__ void FixUnits(const SelectWork& work, UnitCut* cuts, const uint32_t* counts, int joint_bin) {
  constexpr int kBins = 1 << kDigitBits[kDigit];
  constexpr int kShift = kDigitShift[kDigit];
  for (auto head = static_cast<int32_t>(threadIdx.x); head < work.heads; head += kLayerThreads) {
    UnitCut cut = cuts[head];
    const uint32_t* from_top = counts + int64_t{head} * kBins;
    const auto reaches_bound = [&](int bin) { return cut.above + static_cast<int32_t>(from_top[bin]) >= cut.bound; };
    int bin = joint_bin;
    if (cut.alone == 0 && !reaches_bound(bin)) cut.alone = 1;
    if (cut.alone != 0) {  // the greatest value at which it has its own
      bin = 0;
      for (int beyond = kBins; beyond - bin > 1;) {
        const int middle = (bin + beyond) / 2;
        (reaches_bound(middle) ? bin : beyond) = middle;
      }
    }
    const uint32_t higher = bin + 1 < kBins ? from_top[bin + 1] : 0;
    cut.key |= static_cast<uint32_t>(bin) << kShift;
    cut.within = static_cast<int32_t>(from_top[bin] - higher);
    cut.above += static_cast<int32_t>(higher);
    cuts[head] = cut;
  }
}

// By one warp: the units' shares, once all digits are fixed. Ties at the joint cut go to lower heads first.
__device__ void ShareOut(const SelectWork& work, UnitCut* cuts, bool joint) {
  const auto lane = static_cast<int32_t>(threadIdx.x % kLanes);
  const auto rounded_up = (work.heads + kLanes - 1) / kLanes * kLanes;  // whole warps take part in a scan
  const auto least = [](const UnitCut& cut) { return cut.alone != 0 ? cut.bound : max(cut.bound, cut.above); };
  const auto most = [](const UnitCut& cut) {
    return cut.alone != 0 ? cut.bound : max(cut.bound, cut.above + cut.within);
  };
  int64_t missing = 0;
  if (joint) {
    missing = work.totals[blockIdx.x];
    for (int32_t head = lane; head < rounded_up; head += kLanes) {
      const int64_t sum = ScanWarp(head < work.heads ? int64_t{least(cuts[head])} : int64_t{0});
      missing -= __shfl_sync(kAllLanes, sum, kLanes - 1);
    }
  }
  for (int32_t head = lane; head < rounded_up; head += kLanes) {
    UnitCut cut;
    if (head < work.heads) cut = cuts[head];
    const int64_t open = most(cut) - least(cut);
    const int64_t through = ScanWarp(open);
    const int64_t given = max(int64_t{0}, min(open, missing - (through - open)));
    missing -= __shfl_sync(kAllLanes, through, kLanes - 1);  // below 0 it stays there
    if (head >= work.heads) continue;
    cut.share = least(cut) + static_cast<int32_t>(given);
    cut.ties = cut.share - cut.above;
    cuts[head] = cut;
    const int64_t unit = int64_t{blockIdx.x} * work.heads + head;
    const auto length = static_cast<int32_t>(work.offset[unit + 1] - work.offset[unit]);
    work.out.kept[unit] = length - cut.size + cut.share;
  }
}

template <int kDigit>
__global__ void __launch_bounds__(kLayerThreads) FixDigit(SelectWork work, bool joint) {
  constexpr int kBins = 1 << kDigitBits[kDigit];
  const int64_t first_unit = int64_t{blockIdx.x} * work.heads;
  UnitCut* cuts = work.cuts + first_unit;
  uint32_t* counts = work.counts[kDigit] + first_unit * kBins;
  constexpr int kWarps = kLayerThreads / kLanes;
  for (auto head = static_cast<int32_t>(threadIdx.x / kLanes); head < work.heads; head += kWarps) {
    AccumulateFromTop<kBins>(counts + int64_t{head} * kBins);
  }
  __syncthreads();
  if constexpr (kDigit == 0) {
    SetBounds(work, cuts, counts);
    __syncthreads();
  }
  const int joint_bin = joint ? JointBin<kBins>(work, cuts, counts) : 0;
  FixUnits<kDigit>(work, cuts, counts, joint_bin);
  if constexpr (kDigit == kDigits - 1) {
    __syncthreads();
    if (threadIdx.x < kLanes) ShareOut(work, cuts, joint);
  }
}

// From joint shares to blended ones: every unit's search begins again, alone; the first digit is counted already.
__global__ void __launch_bounds__(kLayerThreads) Blend(SelectWork work) {
  const int64_t first_unit = int64_t{blockIdx.x} * work.heads;
  UnitCut* cuts = work.cuts + first_unit;
  AllotBlend(work, cuts, work.totals[blockIdx.x]);
  __syncthreads();
  for (auto head = static_cast<int32_t>(threadIdx.x); head < work.heads; head += kLayerThreads) {
    UnitCut cut;
    cut.bound = cuts[head].bound;
    cut.size = cuts[head].size;
    cut.alone = 1;
    cuts[head] = cut;
  }
  __syncthreads();
  FixUnits<0>(work, cuts, work.counts[0] + first_unit * DigitBins(0), 0);
}

template <int kDigit>
cudaError_t CountAndFix(const SelectWork& work, bool joint, cudaStream_t stream) {
  const auto tiles = static_cast<unsigned>(int64_t{work.units} * work.tiles);
  cudaError_t error = cudaSuccess;
  const bool counted = kDigit == 0 && work.first_digit == FirstDigit::kCounted;
  if (tiles > 0 && !counted) error = Launch(CountDigit<kDigit>, tiles, kTileThreads, 0, stream, work);
  if (error != cudaSuccess) return error;
  return Launch(FixDigit<kDigit>, static_cast<unsigned>(work.units / work.heads), kLayerThreads, 0, stream, work,
                joint);
}

}  // namespace

cudaError_t LaunchSearch(const SelectWork& work, cudaStream_t stream) {
  const bool joint = work.rule.kind == SelectRule::Kind::kAdaFloor || work.rule.kind == SelectRule::Kind::kAdaBlend;
  cudaError_t error = CountAndFix<0>(work, joint, stream);
  if (error == cudaSuccess) error = CountAndFix<1>(work, joint, stream);
  if (error == cudaSuccess) error = CountAndFix<2>(work, joint, stream);
  if (error != cudaSuccess || work.rule.kind != SelectRule::Kind::kAdaBlend) return error;
  error = Launch(Blend, static_cast<unsigned>(work.units / work.heads), kLayerThreads, 0, stream, work);
  for (int digit = 1; digit < kDigits && error == cudaSuccess; ++digit) {
    const size_t bytes = static_cast<size_t>(work.units * DigitBins(digit)) * sizeof(uint32_t);
    error = cudaMemsetAsync(work.counts[digit], 0, bytes, stream);
  }
  if (error == cudaSuccess) error = CountAndFix<1>(work, false, stream);
  return error == cudaSuccess ? CountAndFix<2>(work, false, stream) : error;
}

}  // namespace kvsteward::engine::cuda
