#include "kernels/plan/two_stage.h"

#include <vector>

#include "kernels/plan/radix.h"
#include "kernels/plan/rest.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {

void KeepTwoStage(int64_t fraction_ppm, int32_t rows, std::span<const float> scores, std::span<const float> projected,
                  int64_t share, std::span<uint64_t> mask) {
  const int64_t first = fraction_ppm * share / kPpm;
  KeepAbove(scores, FindCut(scores, first), mask);
  if (first == share) return;

  const double offset = 1e-4 * rows;
  std::vector<Worth> rest;
  rest.reserve(scores.size());
  ForEachLeft(mask, static_cast<int64_t>(scores.size()), [&](int64_t j) {
    const auto i = static_cast<size_t>(j);
    rest.push_back({(double{scores[i]} + offset) * double{projected[i]}, j});
  });
  KeepBest(rest, share - first, mask);
}

}  // namespace kvsteward::engine
