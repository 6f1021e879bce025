// Stage 4 of one layer on the host: refinements of the candidates' scores, in order. A row is refined by one thread, so
// the result depends on nothing but the inputs.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cpu/thread_pool.h"
#include "kernels/plan/protect.h"
#include "kvsteward/engine/paged.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine::cpu {

// The candidates as stretches of neighbours: calls body(begin, end) for each, in order.
template <class Body>
void ForEachStretch(const CandidateSet& candidates, const Body& body) {
  int32_t begin = candidates.begin;
  for (const int32_t hole : candidates.holes) {
    if (begin < hole) body(begin, hole);
    begin = hole + 1;
  }
  if (begin < candidates.end) body(begin, candidates.end);
}

// Sequence and policy must outlive it. Immutable: Refine() may run on any number of threads at once.
class Refiner {
 public:
  // `share` is floor(c), for `mass_ratio`. REQUIRES: if the policy reads norms, the pool holds them for every resident
  // of the layer.
  Refiner(const SequenceView& sequence, const Policy& policy, int32_t layer, int64_t share, ThreadPool& threads);

  // Refines one row of scores of the kv head, [length]; only candidates' scores are read, holes among them may be
  // overwritten. Scores below 2^-100 become 0. The first resident whose score is not finite, before or after some
  // refinement (there it stops), or -1.
  int32_t Refine(int32_t kv_head, const CandidateSet& candidates, std::span<float> scores) const;

 private:
  const UnitView& Unit(int32_t kv_head) const {
    return sequence_.units[static_cast<size_t>(layer_) * sequence_.geometry.kv_heads + kv_head];
  }
  void LoadNu(int32_t kv_head, Norm norm, std::span<float> nu) const;
  std::vector<float> PriorOverHeads(const Refinement& refinement, ThreadPool& threads) const;
  void ApplyPrior(size_t index, int32_t kv_head, const CandidateSet& candidates, std::span<float> refined) const;
  double LargestNorm(Norm norm, int32_t kv_head, const CandidateSet& candidates) const;

  const SequenceView& sequence_;
  const Policy& policy_;
  const int32_t layer_;
  const int64_t share_;
  std::vector<size_t> offsets_;  // [kv_heads + 1] of the units' residents in a layer's array
  // [refinements]: of a prior that is scaled over the heads, the factor of every resident of the layer; else empty.
  std::vector<std::vector<float>> priors_over_heads_;
};

}  // namespace kvsteward::engine::cpu
