#include "kernels/cpu/value_summary.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/bad_numbers.h"
#include "kernels/cpu/element.h"
#include "kernels/plan/row.h"

namespace kvsteward::engine::cpu {
namespace {

constexpr size_t kBest = 256;
constexpr int64_t kPool = 7;

struct Weighed {
  double weight;
  int32_t token;

  bool Beats(const Weighed& other) const {
    return weight > other.weight || (weight == other.weight && token < other.token);
  }
};

// The residents of highest C, in order of position.
std::vector<Weighed> BestOf(std::span<const float> attention) {
  const auto n = static_cast<int64_t>(attention.size());
  const auto beats = [](const Weighed& a, const Weighed& b) { return a.Beats(b); };
  std::vector<Weighed> best;  // a heap, the least on top
  best.reserve(kBest);
  for (int64_t j = 0; j < n; ++j) {
    double sum = 0;
    for (int64_t i = std::max<int64_t>(0, j - kPool / 2); i <= std::min(n - 1, j + kPool / 2); ++i) {
      sum += attention[static_cast<size_t>(i)];
    }
    const Weighed next{sum / kPool, static_cast<int32_t>(j)};
    if (best.size() == kBest) {
      if (!next.Beats(best.front())) continue;
      std::ranges::pop_heap(best, beats);
      best.pop_back();
    }
    best.push_back(next);
    std::ranges::push_heap(best, beats);
  }
  std::ranges::sort(best, {}, &Weighed::token);
  return best;
}

// Adds C_j V_j of the unit's best to sum [head_dim]. The first of them whose value is not finite, or -1.
int32_t Summarise(const SequenceView& sequence, const UnitView& unit, std::span<const float> attention,
                  std::span<double> sum) {
  const Geometry& geometry = sequence.geometry;
  RowCursor cursor(unit.row);
  int32_t block = 0;  // where the cursor stands
  for (const Weighed& next : BestOf(attention)) {
    for (; block < next.token / kBlockTokens; ++block) cursor.Next();
    const auto slot = static_cast<size_t>(next.token % kBlockTokens);
    const std::byte* value = sequence.pool.values(cursor.block()) + slot * geometry.token_bytes();
    for (size_t x = 0; x < sum.size(); ++x) {
      const double v = Element(geometry.dtype, value, x);
      if (!std::isfinite(v)) return next.token;
      sum[x] += next.weight * v;
    }
  }
  return -1;
}

}  // namespace

absl::Status SummaryDistances(const SequenceView& sequence, int32_t layer, std::span<const float> attention,
                              ThreadPool& threads, std::vector<double>* distance) {
  const auto heads = static_cast<size_t>(sequence.geometry.kv_heads);
  const auto dim = static_cast<size_t>(sequence.geometry.head_dim);
  const std::span<const UnitView> units = sequence.units.subspan(static_cast<size_t>(layer) * heads, heads);
  std::vector<size_t> offsets(1, 0);
  for (const UnitView& unit : units) offsets.push_back(offsets.back() + static_cast<size_t>(unit.length));
  std::vector<double> summaries(heads * dim);
  std::vector<int32_t> bad(heads, -1);
  threads.ParallelFor(static_cast<int64_t>(heads), [&](int64_t task, int) {
    const auto head = static_cast<size_t>(task);
    bad[head] = Summarise(sequence, units[head], attention.subspan(offsets[head], offsets[head + 1] - offsets[head]),
                          std::span(summaries).subspan(head * dim, dim));
  });
  distance->assign(heads, 0);
  for (size_t head = 0; head < heads; ++head) {
    if (bad[head] >= 0) return BadValue(layer, static_cast<int32_t>(head), bad[head]);
  }
  for (size_t x = 0; x < dim; ++x) {
    double mean = 0;
    for (size_t head = 0; head < heads; ++head) mean += summaries[head * dim + x];
    mean /= static_cast<double>(heads);
    for (size_t head = 0; head < heads; ++head) {
      const double away = summaries[head * dim + x] - mean;
      (*distance)[head] += away * away;
    }
  }
  for (double& d : *distance) d = std::sqrt(d);
  return absl::OkStatus();
}

}  // namespace kvsteward::engine::cpu
