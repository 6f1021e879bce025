#include "kernels/plan/two_lists.h"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "kernels/plan/radix.h"
#include "kernels/plan/rest.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {

void KeepTwoLists(int64_t part_ppm, std::span<const float> scores, std::span<const float> cross,
                  std::span<const float> self, int64_t share, std::span<uint64_t> mask) {
  int64_t left = share;
  std::vector<float> list(scores.size());
  // Sets the bits of at most `most` of what is left, the best of a list, and of those above `bound` only.
  const auto keep = [&](std::span<const float> values, float bound, int64_t most) {
    std::ranges::fill(list, -1.0f);
    int64_t listed = 0;
    ForEachLeft(mask, static_cast<int64_t>(scores.size()), [&](int64_t j) {
      const float value = values[static_cast<size_t>(j)];
      if (!(value > bound)) return;
      list[static_cast<size_t>(j)] = value;
      ++listed;
    });
    const int64_t kept = std::min(listed, most);
    KeepAbove(list, FindCut(list, kept), mask);
    left -= kept;
  };
  keep(cross, 0.0f, part_ppm * share / kPpm);
  keep(self, 0.0f, left);
  keep(cross, -1.0f, left);
}

}  // namespace kvsteward::engine
