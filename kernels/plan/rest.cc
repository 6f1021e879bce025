#include "kernels/plan/rest.h"

#include <algorithm>
#include <cstddef>

#include "kernels/plan/radix.h"

namespace kvsteward::engine {
namespace {

// The order of doubles as an integer: -0 and +0 are one, and whatever NaN is, it has its place.
int64_t OrderOf(double worth) {
  const auto bits = std::bit_cast<int64_t>(worth + 0.0);
  return bits < 0 ? bits ^ INT64_MAX : bits;
}

}  // namespace

void KeepBest(std::span<const Worth> left, int64_t count, std::span<uint64_t> mask) {
  const auto keep = [&](int64_t index) { mask[static_cast<size_t>(index / 64)] |= uint64_t{1} << (index % 64); };
  // Rounded to floats they are in order, and only those that equal the cut there are told apart by more.
  std::vector<float> rounded;
  rounded.reserve(left.size());
  for (const Worth& each : left) rounded.push_back(static_cast<float>(std::max(0.0, each.worth)));
  const Cut cut = FindCut(rounded, count);
  std::vector<Worth> ties;
  for (size_t i = 0; i < left.size(); ++i) {
    if (KeyOf(rounded[i]) > cut.key) keep(left[i].index);
    if (KeyOf(rounded[i]) == cut.key) ties.push_back(left[i]);
  }
  const auto end = ties.begin() + static_cast<ptrdiff_t>(cut.ties);
  std::nth_element(ties.begin(), end, ties.end(), [](const Worth& a, const Worth& b) {
    const int64_t order_a = OrderOf(a.worth);
    const int64_t order_b = OrderOf(b.worth);
    return order_a != order_b ? order_a > order_b : a.index < b.index;
  });
  for (auto tie = ties.begin(); tie != end; ++tie) keep(tie->index);
}

}  // namespace kvsteward::engine
