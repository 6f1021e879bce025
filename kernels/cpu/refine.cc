#include "kernels/cpu/refine.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <vector>

#include "kernels/cpu/tiles.h"
#include "kernels/policy/row.h"

namespace kvsteward::engine::cpu {
namespace {

// out[i] = fold of values[i - pool/2 .. i + pool/2], what lies outside counting as 0. A window spans at most two blocks
// of `pool` values: the end of one (folded backwards once) and the beginning of the next (folded as it grows). So the
// cost does not grow with `pool`, and sums never subtract. In float64, where no sum of float32 overflows.
template <class T, class Fold>
std::vector<double> Slide(std::span<const T> values, int32_t pool, Fold fold) {
  const auto n = static_cast<int64_t>(values.size());
  const int64_t half = std::min<int64_t>(pool / 2, n - 1);  // wider windows see no more
  const int64_t width = 2 * half + 1;
  const auto at = [&](int64_t i) { return i >= 0 && i < n ? double{values[static_cast<size_t>(i)]} : 0.0; };
  std::vector<double> out(values.size());
  std::vector<double> ends(static_cast<size_t>(width));
  for (int64_t block = 0; block < n; block += width) {  // windows that begin at block - half ... + width - 1
    double end = 0;
    for (int64_t i = width - 1; i >= 0; --i) ends[static_cast<size_t>(i)] = end = fold(end, at(block - half + i));
    double begin = 0;
    for (int64_t i = 0; i < std::min(width, n - block); ++i) {
      if (i > 0) begin = fold(begin, at(block + half + i));
      out[static_cast<size_t>(block + i)] = fold(ends[static_cast<size_t>(i)], begin);
    }
  }
  return out;
}

std::vector<double> MaxPool(std::span<const float> values, int32_t pool) {
  return Slide(values, pool, [](double a, double b) { return std::max(a, b); });
}

template <class T>
std::vector<double> AveragePool(std::span<const T> values, int32_t pool, Refinement::Edge edge) {
  std::vector<double> out = Slide(values, pool, [](double a, double b) { return a + b; });
  const auto n = static_cast<int64_t>(out.size());
  for (int64_t i = 0; i < n; ++i) {
    const int64_t present = std::min<int64_t>(n - 1, i + pool / 2) - std::max<int64_t>(0, i - pool / 2) + 1;
    const double divisor = edge == Refinement::Edge::kPadded ? static_cast<double>(pool) : static_cast<double>(present);
    out[static_cast<size_t>(i)] /= divisor;
  }
  return out;
}

template <class T>
double Mean(std::span<const T> values) {
  double sum = 0;
  for (const T value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

std::vector<double> Norms(const PoolView& pool, const UnitView& unit, Refinement::Norm norm) {
  std::vector<double> norms;
  norms.reserve(static_cast<size_t>(unit.length));
  for (RowCursor cursor(unit.row); static_cast<int32_t>(norms.size()) < unit.length; cursor.Next()) {
    const float* block = pool.norms + static_cast<size_t>(cursor.block()) * kBlockTokens;
    const auto tokens = std::min<size_t>(kBlockTokens, static_cast<size_t>(unit.length) - norms.size());
    norms.insert(norms.end(), block, block + tokens);
  }
  if (norm == Refinement::Norm::kL2) {
    for (double& value : norms) value = std::sqrt(value);
  }
  return norms;
}

void ApplyValuePrior(const PoolView& pool, const UnitView& unit, const Refinement& refinement,
                     CandidateRange candidates, std::span<float> scores) {
  std::vector<double> prior = Norms(pool, unit, refinement.norm);
  if (refinement.pool > 1) prior = AveragePool(std::span<const double>(prior), refinement.pool, refinement.edge);
  const auto of_candidates =
      std::span<const double>(prior).subspan(static_cast<size_t>(candidates.begin), scores.size());
  double scale = 1;
  if (refinement.scale == Refinement::Scale::kMax) scale = *std::max_element(prior.begin(), prior.end());
  if (refinement.scale == Refinement::Scale::kMean) scale = Mean(of_candidates);
  if (scale == 0) return;
  for (size_t i = 0; i < scores.size(); ++i) {
    scores[i] = static_cast<float>(scores[i] * (of_candidates[i] / scale));
  }
}

void Assign(std::span<const double> from, std::span<float> to) {
  std::ranges::transform(from, to.begin(), [](double value) { return static_cast<float>(value); });
}

}  // namespace

int32_t RefineUnit(const PoolView& pool, const UnitView& unit, std::span<const Refinement> refinements,
                   CandidateRange candidates, std::span<float> scores) {
  if (candidates.size() == 0) return -1;
  const auto refined = scores.subspan(static_cast<size_t>(candidates.begin), static_cast<size_t>(candidates.size()));
  const auto first_bad = [&]() -> int32_t {
    const auto bad = std::ranges::find_if_not(refined, [](float score) { return score <= FLT_MAX; });
    return bad == refined.end() ? -1 : candidates.begin + static_cast<int32_t>(bad - refined.begin());
  };
  int32_t bad = first_bad();
  for (const Refinement& refinement : refinements) {
    if (bad >= 0) break;
    switch (refinement.kind) {
      case Refinement::Kind::kMaxPool:
        Assign(MaxPool(refined, refinement.pool), refined);
        break;
      case Refinement::Kind::kAvgPool:
        Assign(AveragePool(std::span<const float>(refined), refinement.pool, refinement.edge), refined);
        break;
      case Refinement::Kind::kValuePrior:
        ApplyValuePrior(pool, unit, refinement, candidates, refined);
        break;
      case Refinement::Kind::kClampToMean: {
        const auto mean = static_cast<float>(Mean(std::span<const float>(refined)));
        for (float& score : refined) score = std::max(score, mean);
        break;
      }
    }
    for (float& score : refined) score = score < kLeastScore ? 0.0f : score;  // NaN stays, and is found
    bad = first_bad();
  }
  return bad;
}

}  // namespace kvsteward::engine::cpu
