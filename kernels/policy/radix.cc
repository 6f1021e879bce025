#include "kernels/policy/radix.h"

#include <algorithm>
#include <cstddef>

namespace kvsteward::engine {
namespace {

// The 31 bits of a key, from the top: 11, 10 and 10.
struct Digit {
  uint32_t shift;
  uint32_t bits;
};
constexpr Digit kDigits[] = {{20, 11}, {10, 10}, {0, 10}};

}  // namespace

Cut FindCut(std::span<const std::span<const float>> units, std::span<const int64_t> floors, int64_t total) {
  Cut cut{.key = 0, .above = std::vector<int64_t>(units.size()), .equal = std::vector<int64_t>(units.size())};
  std::vector<uint32_t> histogram;
  for (const Digit digit : kDigits) {
    // Counts, per unit and value of this digit, the scores whose higher digits equal the cut's.
    const uint32_t bins = 1u << digit.bits;
    const uint32_t prefix_shift = digit.shift + digit.bits;
    const uint32_t prefix = cut.key >> prefix_shift;
    histogram.assign(units.size() * bins, 0);
    for (size_t u = 0; u < units.size(); ++u) {
      uint32_t* counts = histogram.data() + u * bins;
      for (const float score : units[u]) {
        const uint32_t key = KeyOf(score);
        if (key >> prefix_shift == prefix) ++counts[(key >> digit.shift) & (bins - 1)];
      }
    }
    // From the top, the first bin at which the selection reaches the total.
    uint32_t bin = bins;
    int64_t reached = 0;
    do {
      --bin;
      reached = 0;
      for (size_t u = 0; u < units.size(); ++u) {
        if (bin + 1 < bins) cut.above[u] += histogram[u * bins + bin + 1];
        cut.equal[u] = histogram[u * bins + bin];
        reached += std::max(floors[u], cut.above[u] + cut.equal[u]);
      }
    } while (reached < total && bin > 0);
    cut.key |= bin << digit.shift;
  }
  return cut;
}

}  // namespace kvsteward::engine
