#include "kernels/policy/rest.h"

#include <algorithm>

namespace kvsteward::engine {
namespace {

// The order of doubles as an integer: -0 and +0 are one, and whatever NaN is, it is in order.
int64_t OrderOf(double worth) {
  const auto bits = std::bit_cast<int64_t>(worth + 0.0);
  return bits < 0 ? bits ^ INT64_MAX : bits;
}

}  // namespace

void KeepBest(std::vector<Ranked>& ranked, int64_t count, std::span<uint64_t> mask) {
  const auto end = ranked.begin() + static_cast<ptrdiff_t>(count);
  std::nth_element(ranked.begin(), end, ranked.end(), [](const Ranked& a, const Ranked& b) {
    const int64_t order_a = OrderOf(a.worth);
    const int64_t order_b = OrderOf(b.worth);
    return order_a != order_b ? order_a > order_b : a.index < b.index;
  });
  for (auto best = ranked.begin(); best != end; ++best) {
    mask[static_cast<size_t>(best->index / 64)] |= uint64_t{1} << (best->index % 64);
  }
}

}  // namespace kvsteward::engine
