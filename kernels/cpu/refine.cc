#include "kernels/cpu/refine.h"

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cstring>

#include "kernels/cpu/norms.h"
#include "kernels/cpu/pools.h"
#include "kernels/cpu/side_array.h"
#include "kernels/cpu/tiles.h"
#include "kernels/plan/radix.h"

namespace kvsteward::engine::cpu {
namespace {

constexpr int32_t kNormsAtATime = 1024;
constexpr int32_t kPositionsAtATime = 4096;

double Sum(std::span<const float> values) {
  double sum = 0;
  for (const float value : values) sum += value;
  return sum;
}

// Makes tiny scores 0. The first that is not finite, or -1.
int64_t Settle(std::span<float> scores) {
  bool bad = false;
  for (float& score : scores) {
    score = score < kLeastScore ? 0.0f : score;  // NaN stays
    bad |= !(score <= FLT_MAX);
  }
  if (!bad) return -1;
  return std::ranges::find_if_not(scores, [](float score) { return score <= FLT_MAX; }) - scores.begin();
}

void Scale(std::span<float> scores, double factor) {
  for (float& score : scores) score = static_cast<float>(score * factor);
}

void ClampToMean(std::span<float> scores) {
  const auto mean = static_cast<float>(Sum(scores) / static_cast<double>(scores.size()));
  for (float& score : scores) score = std::max(score, mean);
}

// The part of all scores that the best `most` hold; 1 if they hold nothing.
double MassRatio(std::span<const float> scores, int64_t most) {
  const double all = Sum(scores);
  if (all == 0) return 1;
  const int64_t best = std::min(most, static_cast<int64_t>(scores.size()));
  if (best == 0) return 0;
  const Cut cut = FindCut(scores, best);
  double sum = static_cast<double>(cut.ties) * std::bit_cast<float>(cut.key);
  for (const float score : scores) sum += KeyOf(score) > cut.key ? score : 0.0f;
  return sum / all;
}

// Puts the candidates' scores side by side at the first one's place, or back again.
std::span<float> Gather(const CandidateSet& candidates, std::span<float> scores) {
  float* to = &scores[static_cast<size_t>(candidates.begin)];
  ForEachStretch(candidates, [&](int32_t begin, int32_t end) {
    const float* from = &scores[static_cast<size_t>(begin)];
    if (to != from) std::memmove(to, from, static_cast<size_t>(end - begin) * sizeof(float));
    to += end - begin;
  });
  return scores.subspan(static_cast<size_t>(candidates.begin), static_cast<size_t>(candidates.size()));
}

void Scatter(const CandidateSet& candidates, std::span<float> scores) {
  int32_t end = candidates.end;
  int32_t from = candidates.begin + candidates.size();
  for (size_t i = candidates.holes.size(); i > 0; --i) {  // from the back: nothing is overwritten before it has moved
    const int32_t begin = candidates.holes[i - 1] + 1;
    from -= end - begin;
    std::memmove(scores.data() + begin, scores.data() + from, static_cast<size_t>(end - begin) * sizeof(float));
    end = begin - 1;
  }
}

// The resident that is the candidates' `index`-th.
int32_t ResidentOf(const CandidateSet& candidates, int64_t index) {
  int64_t j = candidates.begin + index;
  for (const int32_t hole : candidates.holes) j += hole <= j ? 1 : 0;
  return static_cast<int32_t>(j);
}

}  // namespace

Refiner::Refiner(const SequenceView& sequence, const Policy& policy, int32_t layer, int64_t share, ThreadPool& threads)
    : sequence_(sequence), policy_(policy), layer_(layer), share_(share), offsets_(1, 0) {
  for (int32_t head = 0; head < sequence.geometry.kv_heads; ++head) {
    offsets_.push_back(offsets_.back() + static_cast<size_t>(Unit(head).length));
  }
  for (const Refinement& refinement : policy.refine) {
    const bool heads =
        refinement.kind == Refinement::Kind::kValuePrior && refinement.scale == Refinement::Scale::kHeads;
    priors_over_heads_.push_back(heads ? PriorOverHeads(refinement, threads) : std::vector<float>());
  }
}

int32_t Refiner::Refine(int32_t kv_head, const CandidateSet& candidates, std::span<float> scores) const {
  if (candidates.size() == 0) return -1;
  const std::span<float> refined = Gather(candidates, scores);
  int64_t bad = Settle(refined);
  for (size_t i = 0; i < policy_.refine.size() && bad < 0; ++i) {
    const Refinement& refinement = policy_.refine[i];
    switch (refinement.kind) {
      case Refinement::Kind::kMaxPool:
        MaxPool(refined, refinement.pool);
        break;
      case Refinement::Kind::kAvgPool:
        AveragePool(refined, refinement.pool, refinement.edge);
        break;
      case Refinement::Kind::kValuePrior:
        ApplyPrior(i, kv_head, candidates, refined);
        break;
      case Refinement::Kind::kValueScale:
        Scale(refined, LargestNorm(refinement.norm, kv_head, candidates));
        break;
      case Refinement::Kind::kClampToMean:
        ClampToMean(refined);
        break;
      case Refinement::Kind::kMassRatio:
        Scale(refined, MassRatio(refined, share_));
        break;
    }
    bad = Settle(refined);
  }
  Scatter(candidates, scores);
  return bad < 0 ? -1 : ResidentOf(candidates, bad);
}

// The value norms of the kv head's residents; with the group over the layer, their mean over its heads.
void Refiner::LoadNu(int32_t kv_head, Norm norm, std::span<float> nu) const {
  if (policy_.group.span == Group::Span::kGroup) return LoadNorms(sequence_.pool, Unit(kv_head), norm, 0, nu);
  const int32_t heads = sequence_.geometry.kv_heads;
  for (size_t begin = 0; begin < nu.size(); begin += kNormsAtATime) {
    const size_t count = std::min<size_t>(kNormsAtATime, nu.size() - begin);
    double sums[kNormsAtATime] = {};
    float norms[kNormsAtATime];
    for (int32_t head = 0; head < heads; ++head) {
      LoadNorms(sequence_.pool, Unit(head), norm, static_cast<int32_t>(begin), {norms, count});
      for (size_t i = 0; i < count; ++i) sums[i] += norms[i];
    }
    for (size_t i = 0; i < count; ++i) nu[begin + i] = static_cast<float>(sums[i] / heads);
  }
}

// gamma over the sum of gamma of all heads that hold a token of the same position.
std::vector<float> Refiner::PriorOverHeads(const Refinement& refinement, ThreadPool& threads) const {
  const auto heads = static_cast<size_t>(sequence_.geometry.kv_heads);
  std::vector<float> prior(offsets_.back());
  std::vector<int32_t> positions(offsets_.back());
  const auto of_unit = [&](auto& all, size_t head) {
    return std::span(all).subspan(offsets_[head], offsets_[head + 1] - offsets_[head]);
  };
  threads.ParallelFor(static_cast<int64_t>(heads), [&](int64_t task, int) {
    const auto head = static_cast<size_t>(task);
    LoadNu(static_cast<int32_t>(head), refinement.norm, of_unit(prior, head));
    if (refinement.pool > 1) AveragePool(of_unit(prior, head), refinement.pool, refinement.edge);
    LoadPositions(sequence_.pool, Unit(static_cast<int32_t>(head)), of_unit(positions, head));
  });

  // One task per range of positions: all heads' residents there are added up, and divided.
  const int64_t ranges = (sequence_.seen + kPositionsAtATime - 1) / kPositionsAtATime;
  threads.ParallelFor(ranges, [&](int64_t range, int) {
    const int64_t first = range * kPositionsAtATime;
    double sums[kPositionsAtATime] = {};
    const auto for_each = [&](const auto& body) {
      for (size_t head = 0; head < heads; ++head) {
        const auto unit = of_unit(positions, head);
        auto position = std::ranges::lower_bound(unit, first);
        auto gamma = of_unit(prior, head).begin() + (position - unit.begin());
        for (; position != unit.end() && *position < first + kPositionsAtATime; ++position, ++gamma) {
          body(sums[*position - first], *gamma);
        }
      }
    };
    for_each([](double& sum, float gamma) { sum += gamma; });
    for_each([](double sum, float& gamma) { gamma = sum == 0 ? 1.0f : static_cast<float>(gamma / sum); });
  });
  return prior;
}

void Refiner::ApplyPrior(size_t index, int32_t kv_head, const CandidateSet& candidates,
                         std::span<float> refined) const {
  const Refinement& refinement = policy_.refine[index];
  const auto head = static_cast<size_t>(kv_head);
  const size_t length = offsets_[head + 1] - offsets_[head];
  std::vector<float> own;
  std::span<const float> gamma;
  double z = 1;
  if (refinement.scale == Refinement::Scale::kHeads) {
    gamma = std::span(priors_over_heads_[index]).subspan(offsets_[head], length);
  } else {
    own.resize(length);
    LoadNu(kv_head, refinement.norm, own);
    if (refinement.pool > 1) AveragePool(own, refinement.pool, refinement.edge);
    gamma = own;
  }
  if (refinement.scale == Refinement::Scale::kMax) z = *std::ranges::max_element(gamma);
  if (refinement.scale == Refinement::Scale::kMean) {
    z = 0;
    ForEachStretch(candidates, [&](int32_t begin, int32_t end) {
      z += Sum(gamma.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)));
    });
    z /= candidates.size();
  }
  if (z == 0) return;
  const double factor = 1 / z;
  float* score = refined.data();
  ForEachStretch(candidates, [&](int32_t begin, int32_t end) {
    for (int32_t j = begin; j < end; ++j, ++score) {
      *score = static_cast<float>(*score * (gamma[static_cast<size_t>(j)] * factor));
    }
  });
}

double Refiner::LargestNorm(Norm norm, int32_t kv_head, const CandidateSet& candidates) const {
  std::vector<float> nu(offsets_[static_cast<size_t>(kv_head) + 1] - offsets_[static_cast<size_t>(kv_head)]);
  LoadNu(kv_head, norm, nu);
  float largest = 0;
  ForEachStretch(candidates, [&](int32_t begin, int32_t end) {
    for (int32_t j = begin; j < end; ++j) largest = std::max(largest, nu[static_cast<size_t>(j)]);
  });
  return largest;
}

}  // namespace kvsteward::engine::cpu
