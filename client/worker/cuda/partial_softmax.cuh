// Softmax-weighted sums in parts: a part is the highest score, the sum of weights relative to it and the weighted sum
// of values, and two parts make one. Scores are powers of two: they were multiplied by log2(e).
#pragma once

#include <cmath>
#include <cstdint>

namespace kvsteward::worker::cuda {

// What a part that has seen nothing has: weight 0 in any merge.
constexpr float kNothing = -INFINITY;

struct Part {
  float highest;
  float sum;
};

// What the weights of a part are multiplied by to be relative to `highest`.
__device__ __forceinline__ float Factor(float part_highest, float highest) {
  return part_highest == kNothing ? 0.0f : exp2f(part_highest - highest);
}

// Writes what a block of warps has, merged in the order of the warps: element `column` of values [warps][stride].
template <int kWarps>
__device__ __forceinline__ float MergeWarps(const Part* parts, int32_t part_stride, const float* values,
                                            int32_t value_stride, int32_t column, Part& merged) {
  merged = {kNothing, 0.0f};
#pragma unroll
  for (int32_t w = 0; w < kWarps; ++w) merged.highest = fmaxf(merged.highest, parts[w * part_stride].highest);
  float value = 0;
#pragma unroll
  for (int32_t w = 0; w < kWarps; ++w) {
    const float factor = Factor(parts[w * part_stride].highest, merged.highest);
    merged.sum = fmaf(parts[w * part_stride].sum, factor, merged.sum);
    value = fmaf(values[w * value_stride + column], factor, value);
  }
  return value;
}

__device__ __forceinline__ float Divide(float value, float sum) { return sum == 0 ? 0.0f : value / sum; }

}  // namespace kvsteward::worker::cuda
