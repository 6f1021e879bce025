#include "kernels/cpu/pools.h"

#include <algorithm>
#include <vector>

namespace kvsteward::engine::cpu {
namespace {

// values[i] = finish(i, fold of values[i - pool/2 .. i + pool/2]), what lies outside counting as 0. A window spans at
// most two blocks of `pool` values: the end of one, folded backwards once, and the beginning of the next, folded as it
// grows. Sums never subtract.
template <class T, class Fold, class Finish>
void Slide(std::span<float> values, int32_t pool, Fold fold, Finish finish) {
  const auto n = static_cast<int64_t>(values.size());
  if (n == 0) return;
  const int64_t half = std::min<int64_t>(pool / 2, n - 1);  // wider windows see no more
  const int64_t width = 2 * half + 1;
  const auto at = [&](int64_t i) { return i < n ? values[static_cast<size_t>(i)] : 0.0f; };
  std::vector<T> ends(static_cast<size_t>(width));
  std::vector<float> before(static_cast<size_t>(half));  // what stood left of the block, overwritten since
  for (int64_t block = 0; block < n; block += width) {   // windows that begin at block - half ... + width - 1
    T end = 0;
    for (int64_t i = width - 1; i >= half; --i) ends[static_cast<size_t>(i)] = end = fold(end, T{at(block - half + i)});
    for (int64_t i = half - 1; i >= 0; --i) {
      ends[static_cast<size_t>(i)] = end = fold(end, T{before[static_cast<size_t>(i)]});
    }
    for (int64_t i = 0; i < half; ++i) before[static_cast<size_t>(i)] = at(block + half + 1 + i);
    T begin = 0;
    for (int64_t i = 0; i < std::min(width, n - block); ++i) {
      if (i > 0) begin = fold(begin, T{at(block + half + i)});
      values[static_cast<size_t>(block + i)] = finish(block + i, fold(ends[static_cast<size_t>(i)], begin));
    }
  }
}

}  // namespace

void MaxPool(std::span<float> values, int32_t pool) {
  Slide<float>(
      values, pool, [](float a, float b) { return std::max(a, b); }, [](int64_t, float max) { return max; });
}

void AveragePool(std::span<float> values, int32_t pool, Refinement::Edge edge) {
  const auto n = static_cast<int64_t>(values.size());
  const int64_t half = pool / 2;
  const double inside = 1.0 / pool;
  Slide<double>(
      values, pool, [](double a, double b) { return a + b; },
      [&](int64_t i, double sum) {
        if (edge == Refinement::Edge::kPadded || (i >= half && i + half < n)) return static_cast<float>(sum * inside);
        const int64_t present = std::min(n - 1, i + half) - std::max<int64_t>(0, i - half) + 1;
        return static_cast<float>(sum / static_cast<double>(present));
      });
}

}  // namespace kvsteward::engine::cpu
