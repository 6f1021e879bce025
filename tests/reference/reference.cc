#include "tests/reference/reference.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace kvsteward::reference {
namespace {

using Row = std::vector<double>;

double FlushTiny(double score) { return score < std::ldexp(1.0, -100) ? 0.0 : score; }

double Reduced(const Row& terms, Reduce how) {
  if (how == Reduce::kMax) return *std::max_element(terms.begin(), terms.end());
  const double sum = std::accumulate(terms.begin(), terms.end(), 0.0);
  return how == Reduce::kMean ? sum / static_cast<double>(terms.size()) : sum;
}

// Position k of the pooled row: what lies within (pool - 1) / 2 of it.
template <class Combine>
Row Pooled(const Row& row, int pool, Combine combine) {
  Row pooled;
  const auto n = static_cast<int64_t>(row.size());
  for (int64_t j = 0; j < n; ++j) {
    Row neighbours;
    for (int64_t i = j - pool / 2; i <= j + pool / 2; ++i) {
      if (i >= 0 && i < n) neighbours.push_back(row[i]);
    }
    pooled.push_back(combine(neighbours));
  }
  return pooled;
}

Row MaxPooled(const Row& row, int pool) {
  return Pooled(row, pool, [](const Row& near) { return *std::max_element(near.begin(), near.end()); });
}

Row AvgPooled(const Row& row, int pool, bool padded) {
  return Pooled(row, pool, [&](const Row& near) {
    const double sum = std::accumulate(near.begin(), near.end(), 0.0);
    return sum / (padded ? pool : static_cast<double>(near.size()));
  });
}

// Which residents are candidates.
std::vector<bool> CandidateFlags(const Unit& unit, const Policy& policy, int64_t k) {
  const auto n = static_cast<int64_t>(unit.positions.size());
  const int64_t recent = policy.recent_is_budget_minus ? std::max<int64_t>(0, k - policy.recent) : policy.recent;
  std::vector<bool> candidate;
  for (int64_t j = 0; j < n; ++j) candidate.push_back(unit.positions[j] >= policy.sinks && j < n - recent);
  return candidate;
}

// Stage 1: one query row's attention over the unit. Grows *greatest_logit.
Row Attention(const Sequence& sequence, const Policy& policy, int64_t k, const Unit& unit, const double* query,
              int64_t row_position, double* greatest_logit) {
  double gain = 1;
  if (policy.signal == Signal::kStepGainSoftmax) {
    const double ratio = static_cast<double>(row_position + 1) / static_cast<double>(k);
    gain = std::max(policy.g_min, std::sqrt(2 * std::log(std::max(1.0, ratio))));
  }
  const size_t n = unit.positions.size();
  Row attention(n, 0.0);
  Row logits(n);
  double highest = -INFINITY;
  for (size_t j = 0; j < n; ++j) {
    if (unit.positions[j] > row_position) continue;
    double dot = 0;
    for (int x = 0; x < sequence.head_dim; ++x) dot += query[x] * unit.keys[j * sequence.head_dim + x];
    logits[j] = gain * dot / std::sqrt(static_cast<double>(sequence.head_dim));
    highest = std::max(highest, logits[j]);
    *greatest_logit = std::max(*greatest_logit, std::abs(logits[j]));
  }
  double sum = 0;
  for (size_t j = 0; j < n; ++j) {
    if (unit.positions[j] <= row_position) sum += attention[j] = std::exp(logits[j] - highest);
  }
  if (sum > 0) {
    for (double& a : attention) a /= sum;
  }
  return attention;
}

// Stages 1-3: the signal of every resident.
Row Signals(const Sequence& sequence, const Policy& policy, int64_t k, int layer, int kv_head, double* greatest_logit) {
  const Unit& unit = sequence.units[static_cast<size_t>(layer) * sequence.kv_heads + kv_head];
  const size_t n = unit.positions.size();
  if (policy.signal == Signal::kNone) return Row(unit.positions.begin(), unit.positions.end());

  const int group = sequence.query_heads / sequence.kv_heads;
  const int rows = static_cast<int>(sequence.row_positions.size());
  std::vector<Row> heads;  // [group][n]
  for (int g = 0; g < group; ++g) {
    const size_t head = static_cast<size_t>(layer) * sequence.query_heads + kv_head * group + g;
    std::vector<Row> attention;  // [rows used][n]
    for (int i = std::max(0, rows - policy.window); i < rows; ++i) {
      const double* query = &sequence.queries[(head * rows + i) * sequence.head_dim];
      attention.push_back(Attention(sequence, policy, k, unit, query, sequence.row_positions[i], greatest_logit));
    }
    Row accumulated;
    for (size_t j = 0; j < n; ++j) {
      Row column;
      for (const Row& row : attention) column.push_back(row[j]);
      accumulated.push_back(FlushTiny(Reduced(column, policy.accumulate)));
    }
    heads.push_back(accumulated);
  }
  Row grouped;
  for (size_t j = 0; j < n; ++j) {
    Row column;
    for (const Row& head : heads) column.push_back(head[j]);
    grouped.push_back(Reduced(column, policy.group));
  }
  return grouped;
}

// The value prior of every resident.
Row ValuePrior(const Sequence& sequence, const Refinement& refinement, const Unit& unit,
               const std::vector<bool>& candidate) {
  Row norms;
  for (size_t j = 0; j < unit.positions.size(); ++j) {
    double squares = 0;
    for (int x = 0; x < sequence.head_dim; ++x) squares += std::pow(unit.values[j * sequence.head_dim + x], 2);
    norms.push_back(refinement.norm == Norm::kL2 ? std::sqrt(squares) : squares);
  }
  Row gamma = AvgPooled(norms, refinement.pool, refinement.padded);
  double z = 1;
  if (refinement.scale == Scale::kMax) z = *std::max_element(gamma.begin(), gamma.end());
  if (refinement.scale == Scale::kMean) {
    Row of_candidates;
    for (size_t j = 0; j < gamma.size(); ++j) {
      if (candidate[j]) of_candidates.push_back(gamma[j]);
    }
    z = Reduced(of_candidates, Reduce::kMean);
  }
  for (double& g : gamma) g = z == 0 ? 1 : g / z;
  return gamma;
}

// Candidates of one layer, best first: higher score, lower head, lower position.
struct Candidate {
  double score;
  int head;
  size_t index;
};

std::vector<Candidate> BestFirst(const std::vector<std::vector<double>>& scores, int first_unit, int heads) {
  std::vector<Candidate> best;
  for (int h = 0; h < heads; ++h) {
    for (size_t j = 0; j < scores[first_unit + h].size(); ++j) {
      if (scores[first_unit + h][j] != kProtected) best.push_back({scores[first_unit + h][j], h, j});
    }
  }
  std::stable_sort(best.begin(), best.end(), [](const Candidate& a, const Candidate& b) { return a.score > b.score; });
  return best;
}

// What is left goes out one at a time, in rounds over `order`, to those below their cap.
void Rounds(int64_t left, const std::vector<int64_t>& caps, const std::vector<int>& order,
            std::vector<int64_t>* given) {
  while (left > 0) {
    for (const int u : order) {
      if (left > 0 && (*given)[u] < caps[u]) {
        ++(*given)[u];
        --left;
      }
    }
  }
}

// Stage 7: how many candidates each head keeps of `total`.
std::vector<int64_t> HeadBudgets(const Policy& policy, const std::vector<Candidate>& best,
                                 const std::vector<int64_t>& caps, int64_t total) {
  const auto heads = static_cast<int64_t>(caps.size());
  std::vector<int> order(caps.size());
  std::iota(order.begin(), order.end(), 0);
  std::vector<int64_t> budget(caps.size(), 0);
  switch (policy.head) {
    case Head::kUniform: {
      for (size_t u = 0; u < caps.size(); ++u) budget[u] = std::min(total / heads, caps[u]);
      break;
    }
    case Head::kAdaFloor: {
      std::vector<int64_t> floors;
      for (const int64_t cap : caps) floors.push_back(std::min(policy.alpha_ppm * total / (1'000'000 * heads), cap));
      std::vector<int64_t> seen(caps.size(), 0);
      std::vector<int> rest;  // heads of the candidates outside the floors, best first
      for (const Candidate& c : best) {
        if (seen[c.head]++ >= floors[c.head]) rest.push_back(c.head);
      }
      budget = floors;
      const int64_t left = total - std::accumulate(floors.begin(), floors.end(), int64_t{0});
      for (int64_t i = 0; i < left; ++i) ++budget[rest[i]];
      return budget;
    }
    case Head::kAdaBlend: {
      std::vector<int64_t> joint(caps.size(), 0);
      for (int64_t i = 0; i < total; ++i) ++joint[best[i].head];
      std::vector<int64_t> remainder;
      for (size_t u = 0; u < caps.size(); ++u) {
        const int64_t exact = (1'000'000 - policy.alpha_ppm) * joint[u] * heads + policy.alpha_ppm * total;
        budget[u] = std::min(exact / (1'000'000 * heads), caps[u]);
        remainder.push_back(exact % (1'000'000 * heads));
      }
      std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return remainder[a] > remainder[b]; });
      break;
    }
  }
  Rounds(total - std::accumulate(budget.begin(), budget.end(), int64_t{0}), caps, order, &budget);
  return budget;
}

}  // namespace

double UnitScores::Epsilon(size_t j) const {
  return (1e-4 + std::ldexp(greatest_logit, -21)) * std::max(scores[j], mean) + std::ldexp(1.0, -100);
}

UnitScores Score(const Sequence& sequence, const Policy& policy, int64_t k, int layer, int kv_head) {
  const Unit& unit = sequence.units[static_cast<size_t>(layer) * sequence.kv_heads + kv_head];
  const std::vector<bool> candidate = CandidateFlags(unit, policy, k);
  UnitScores result;
  const Row signals = Signals(sequence, policy, k, layer, kv_head, &result.greatest_logit);

  std::vector<size_t> residents;  // of the candidates
  Row scores;
  for (size_t j = 0; j < signals.size(); ++j) {
    if (!candidate[j]) continue;
    residents.push_back(j);
    scores.push_back(signals[j]);
  }
  for (const Refinement& refinement : policy.refine) {
    if (scores.empty()) break;
    switch (refinement.kind) {
      case Refine::kMaxPool:
        scores = MaxPooled(scores, refinement.pool);
        break;
      case Refine::kAvgPoolPadded:
      case Refine::kAvgPoolValid:
        scores = AvgPooled(scores, refinement.pool, refinement.kind == Refine::kAvgPoolPadded);
        break;
      case Refine::kValuePrior: {
        const Row prior = ValuePrior(sequence, refinement, unit, candidate);
        for (size_t i = 0; i < scores.size(); ++i) scores[i] *= prior[residents[i]];
        break;
      }
      case Refine::kClampToMean: {
        const double mean = Reduced(scores, Reduce::kMean);
        for (double& s : scores) s = std::max(s, mean);
        break;
      }
    }
    for (double& s : scores) s = FlushTiny(s);
    result.greatest = std::max(result.greatest, *std::max_element(scores.begin(), scores.end()));
  }
  if (!scores.empty()) result.mean = Reduced(scores, Reduce::kMean);
  result.scores.assign(signals.size(), kProtected);
  for (size_t i = 0; i < scores.size(); ++i) result.scores[residents[i]] = scores[i];
  return result;
}

std::vector<std::vector<bool>> Decide(const Policy& policy, int layers, int kv_heads, int64_t k,
                                      const std::vector<std::vector<double>>& scores) {
  std::vector<std::vector<bool>> keep;
  std::vector<int64_t> candidates;  // [units]
  int64_t residents = 0;
  for (const auto& unit : scores) {
    keep.emplace_back(unit.size(), true);
    candidates.push_back(std::count_if(unit.begin(), unit.end(), [](double s) { return s != kProtected; }));
    residents += static_cast<int64_t>(unit.size());
  }
  const int64_t budget = k * layers * kv_heads;
  if (residents <= budget) return keep;

  // Stage 6, uniform: equal numbers of candidates, as far as a layer has them. Poured one by one into the emptiest.
  std::vector<int64_t> caps(layers, 0);
  for (size_t u = 0; u < candidates.size(); ++u) caps[u / kv_heads] += candidates[u];
  const int64_t all_candidates = std::accumulate(caps.begin(), caps.end(), int64_t{0});
  std::vector<int64_t> totals(layers, 0);
  for (int64_t left = budget - (residents - all_candidates); left > 0; --left) {
    int emptiest = -1;
    for (int l = 0; l < layers; ++l) {
      if (totals[l] < caps[l] && (emptiest < 0 || totals[l] < totals[emptiest])) emptiest = l;
    }
    ++totals[emptiest];
  }

  for (int l = 0; l < layers; ++l) {
    const int first = l * kv_heads;
    const std::vector<Candidate> best = BestFirst(scores, first, kv_heads);
    const std::vector<int64_t> layer_caps(candidates.begin() + first, candidates.begin() + first + kv_heads);
    std::vector<int64_t> left = HeadBudgets(policy, best, layer_caps, totals[l]);
    for (const Candidate& c : best) {  // stage 8
      keep[first + c.head][c.index] = left[c.head]-- > 0;
    }
  }
  return keep;
}

}  // namespace kvsteward::reference
