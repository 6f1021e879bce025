// Single passes over a row of scores, with SIMD: to count, to gather, and to set keep bits. A row holds the scores of
// candidates, at least +0 and no NaN, and anywhere between them negative marks, which are no candidates. Non-negative
// floats order as their bits, so everything compares integers. Stateless; thread-safe.
#pragma once

#include <bit>
#include <cstdint>
#include <span>
#include <vector>

namespace kvsteward::engine {

// The order of candidates' scores as an integer; negative for marks.
inline int32_t KeyOf(float score) { return std::bit_cast<int32_t>(score); }

// Keys from `low` to `high`, both included.
struct KeyRange {
  int32_t low = 0;
  int32_t high = 0x7fffffff;
};

struct KeyCount {
  int64_t above = 0;   // keys over the range
  int64_t within = 0;  // keys in it
};

// REQUIRES: range.low >= 0.
KeyCount CountKeys(std::span<const float> row, KeyRange range);

// As CountKeys; appends the scores within the range to `out`, in order.
KeyCount GatherKeys(std::span<const float> row, KeyRange range, std::vector<float>* out);

// Sets bit j % 64 of mask[j / 64] for every mark, and returns their number. REQUIRES: a bit for each score.
int64_t KeepMarks(std::span<const float> row, std::span<uint64_t> mask);

// Where the selection inside a row cuts.
struct Cut {
  int32_t key = 0x7fffffff;
  int64_t ties = 0;  // of those that equal it, the first so many are in; all above it are
};

// Sets the bits of what the cut lets in. REQUIRES: a bit for each score; cut.key >= 0.
void KeepAbove(std::span<const float> row, Cut cut, std::span<uint64_t> mask);

}  // namespace kvsteward::engine
