#include "tests/reference/refine.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "tests/reference/arithmetic.h"

namespace kvsteward::reference {
namespace {

// nu of every resident of a unit. With the group over the layer: its mean over the kv heads.
Row LayerNorms(const Sequence& sequence, const Policy& policy, int layer, int kv_head, Norm norm) {
  const Unit* units = &sequence.units[static_cast<size_t>(layer) * sequence.kv_heads];
  if (!policy.span_layer) return NormsOf(sequence, units[kv_head], norm);
  Row mean(units[0].positions.size(), 0.0);
  for (int h = 0; h < sequence.kv_heads; ++h) {
    const Row norms = NormsOf(sequence, units[h], norm);
    for (size_t j = 0; j < mean.size(); ++j) mean[j] += norms[j] / sequence.kv_heads;
  }
  return mean;
}

Row OfCandidates(const Row& row, const std::vector<bool>& candidate) {
  Row chosen;
  for (size_t j = 0; j < row.size(); ++j) {
    if (candidate[j]) chosen.push_back(row[j]);
  }
  return chosen;
}

// What each candidate's score is multiplied by.
Row ValuePrior(const Sequence& sequence, const Policy& policy, const Refinement& refinement, int layer, int kv_head,
               const std::vector<bool>& candidate) {
  const auto gamma_of = [&](int head) {
    return AvgPooled(LayerNorms(sequence, policy, layer, head, refinement.norm), refinement.pool, refinement.padded);
  };
  const Unit* units = &sequence.units[static_cast<size_t>(layer) * sequence.kv_heads];
  const Row gamma = gamma_of(kv_head);
  Row z(gamma.size(), 1.0);
  if (refinement.scale == Scale::kMax) z.assign(gamma.size(), Max(gamma));
  if (refinement.scale == Scale::kMean) z.assign(gamma.size(), Reduced(OfCandidates(gamma, candidate), Reduce::kMean));
  if (refinement.scale == Scale::kHeads) {
    z.assign(gamma.size(), 0.0);
    for (int h = 0; h < sequence.kv_heads; ++h) {
      const Row others = gamma_of(h);
      for (size_t j = 0; j < z.size(); ++j) {
        for (size_t i = 0; i < others.size(); ++i) {
          if (units[h].positions[i] == units[kv_head].positions[j]) z[j] += others[i];
        }
      }
    }
  }
  Row prior;
  for (size_t j = 0; j < gamma.size(); ++j) prior.push_back(z[j] == 0 ? 1 : gamma[j] / z[j]);
  return OfCandidates(prior, candidate);
}

}  // namespace

Row NormsOf(const Sequence& sequence, const Unit& unit, Norm norm) {
  Row norms;
  for (size_t j = 0; j < unit.positions.size(); ++j) {
    double sum = 0;
    for (int x = 0; x < sequence.head_dim; ++x) {
      const double v = unit.values[j * sequence.head_dim + x];
      sum += norm == Norm::kL1 ? std::abs(v) : v * v;
    }
    const double cached = static_cast<float>(sum);
    norms.push_back(norm == Norm::kL2 ? std::sqrt(cached) : cached);
  }
  return norms;
}

Row Refined(const Sequence& sequence, const Policy& policy, int layer, int kv_head, const Row& signals,
            const std::vector<std::vector<bool>>& candidate, int64_t uniform, double* greatest, double* noise) {
  const std::vector<bool>& own = candidate[kv_head];
  Row scores = OfCandidates(signals, own);
  *greatest = std::max(*greatest, Max(scores));
  if (scores.empty()) return scores;
  for (const Refinement& refinement : policy.refine) {
    switch (refinement.kind) {
      case Refine::kMaxPool:
        scores = MaxPooled(scores, refinement.pool);
        break;
      case Refine::kAvgPoolPadded:
      case Refine::kAvgPoolValid:
        scores = AvgPooled(scores, refinement.pool, refinement.kind == Refine::kAvgPoolPadded);
        break;
      case Refine::kValuePrior: {
        const Row prior = ValuePrior(sequence, policy, refinement, layer, kv_head, own);
        for (size_t i = 0; i < scores.size(); ++i) scores[i] *= prior[i];
        *noise *= Max(prior);
        break;
      }
      case Refine::kValueScale: {
        const double loudest = Max(OfCandidates(LayerNorms(sequence, policy, layer, kv_head, refinement.norm), own));
        for (double& s : scores) s *= loudest;
        *noise *= loudest;
        break;
      }
      case Refine::kClampToMean: {
        const double mean = Reduced(scores, Reduce::kMean);
        for (double& s : scores) s = std::max(s, mean);
        break;
      }
      case Refine::kMassRatio: {
        Row best = scores;
        std::sort(best.begin(), best.end(), std::greater<>());
        const double all = Sum(best);
        best.resize(std::min(best.size(), static_cast<size_t>(uniform)));
        for (double& s : scores) s *= all == 0 ? 1 : Sum(best) / all;
        break;
      }
    }
    for (double& s : scores) s = FlushTiny(s);
    *noise += std::ldexp(1.05, -100);
    *greatest = std::max(*greatest, Max(scores));
  }
  return scores;
}

}  // namespace kvsteward::reference
