// The search for the keys at which selections cut, as plan/radix.h: the 31 bits of a score's key are fixed a digit at a
// time from the top, by counting the scores of each value of the digit, for all units at once. A unit follows its
// layer's joint search until its floor lies deeper than the joint cut; from there on it searches alone. Internal to the
// selection.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/select.h"

namespace kvsteward::engine::cuda {

inline constexpr int kDigits = 3;
inline constexpr int kDigitBits[kDigits] = {kFirstDigitBits, 10, 10};
inline constexpr int kDigitShift[kDigits] = {20, 10, 0};
constexpr int64_t DigitBins(int digit) { return int64_t{1} << kDigitBits[digit]; }

inline constexpr int kTileThreads = 256;
inline constexpr int kTileKeys = 8;  // of a thread
inline constexpr int kTileTokens = kTileThreads * kTileKeys;

// Where a unit's search stands.
struct UnitCut {
  uint32_t key = 0;    // its cut starts with the digits of this; those not fixed yet are 0
  int32_t above = 0;   // candidates over all keys that start so
  int32_t within = 0;  // and those whose keys do
  int32_t bound = 0;   // candidates that it gives: alone exactly so many, else at least
  int32_t alone = 0;   // whether it searches for the cut of its own best `bound`
  int32_t size = 0;    // candidates
  int32_t share = 0;   // candidates that stay, once all digits are fixed:
  int32_t ties = 0;    // all whose key is greater, and of those that equal it the first so many
};

// Of a tile, the residents that stay for certain, and those whose key is the cut's.
struct TileCount {
  int32_t sure;
  int32_t ties;
};

// A selection and its workspace, by value.
struct SelectWork {
  int32_t units = 0;
  int32_t heads = 0;  // of a layer
  int32_t tiles = 0;  // of the longest unit
  const float* scores = nullptr;
  const int64_t* offset = nullptr;  // [units + 1]
  SelectRule rule;
  Selected out;
  FirstDigit first_digit = FirstDigit::kToCount;
  uint32_t* counts[kDigits] = {};  // [units][bins]: scores with a value of the digit; later, with that or a greater one
  UnitCut* cuts = nullptr;         // [units]
  TileCount* tile_counts = nullptr;  // [units][tiles]
  int64_t* totals = nullptr;         // [layers] rule.totals, as far as there are so many
  // [units] For layers with many heads.
  int64_t* caps = nullptr;
  int64_t* shares = nullptr;
  int32_t* order = nullptr;
};

// Fills `cuts` and out.kept. REQUIRES: the workspace's counts are 0, but for a first digit that is counted.
cudaError_t LaunchSearch(const SelectWork& work, cudaStream_t stream);

}  // namespace kvsteward::engine::cuda
