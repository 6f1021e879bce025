// Stages 1 to 5 of the reference, in order, for one layer.
#include <algorithm>
#include <cmath>

#include "tests/reference/arithmetic.h"
#include "tests/reference/reference.h"
#include "tests/reference/refine.h"
#include "tests/reference/signal.h"

namespace kvsteward::reference {
namespace {

// Rows over a unit's residents, one per query head (one per kv head where the signal is so).
struct Heads {
  std::vector<Row> signal;
  std::vector<Row> attention;
  std::vector<Row> cross;
  std::vector<Row> self;
  double greatest_logit = 0;
  double noise = std::ldexp(1.05, -100);  // a score is flushed or not, give or take its error
};

// The rows' part at tokens whose class differs from the row's, or does not.
std::vector<Row> ByClass(const Sequence& sequence, const Policy& policy, const Unit& unit, std::vector<Row> rows,
                         bool cross) {
  const std::vector<int> used = RowsUsed(sequence, policy);
  const std::vector<int>& classes = sequence.inputs.classes;
  for (size_t i = 0; i < rows.size(); ++i) {
    for (size_t j = 0; j < unit.positions.size(); ++j) {
      const bool differs = classes[sequence.row_positions[used[i]]] != classes[unit.positions[j]];
      if (differs != cross) rows[i][j] = 0;
    }
  }
  return rows;
}

// Stages 1 and 2 of one kv head.
Heads Signals(const Sequence& sequence, const Policy& policy, int64_t k, int layer, int kv_head,
              const std::vector<bool>& candidate) {
  const size_t u = static_cast<size_t>(layer) * sequence.kv_heads + kv_head;
  const Unit& unit = sequence.units[u];
  const size_t n = unit.positions.size();
  const int group = sequence.query_heads / sequence.kv_heads;
  Heads heads;
  switch (policy.signal) {
    case Signal::kNone:
      heads.signal.emplace_back(unit.positions.begin(), unit.positions.end());
      return heads;
    case Signal::kSubmitted:
      heads.signal.push_back(sequence.inputs.scores[u]);
      return heads;
    case Signal::kKeyDifference:
      heads.signal.push_back(KeyDifference(sequence, unit, &heads.noise));
      return heads;
    case Signal::kExpected:
      for (int h = kv_head * group; h < (kv_head + 1) * group; ++h) {
        heads.signal.push_back(ExpectedAttention(sequence, policy, layer, h, &heads.greatest_logit));
      }
      return heads;
    default:
      break;
  }
  for (int h = kv_head * group; h < (kv_head + 1) * group; ++h) {
    const std::vector<Row> rows = Attention(sequence, policy, k, layer, h, candidate, &heads.greatest_logit);
    const std::vector<Row> pooled = policy.row_pool > 1 ? RowsPooled(rows, policy.row_pool) : rows;
    heads.signal.push_back(Accumulated(pooled, policy, n));
    heads.noise += VarianceNoise(pooled, policy, n, heads.greatest_logit);
    if (policy.reads_attention()) {
      heads.attention.emplace_back();
      for (size_t j = 0; j < n; ++j) {
        double sum = 0;
        for (const Row& row : rows) sum += row[j];
        heads.attention.back().push_back(sum / static_cast<double>(rows.size()));
      }
    }
    if (policy.select == Select::kTwoLists) {
      heads.cross.push_back(Accumulated(ByClass(sequence, policy, unit, pooled, true), policy, n));
      heads.self.push_back(Accumulated(ByClass(sequence, policy, unit, pooled, false), policy, n));
    }
  }
  return heads;
}

// Stages 1 and 2 of a layer, [kv_heads]. With the group over the layer every kv head has all heads' rows.
std::vector<Heads> LayerSignals(const Sequence& sequence, const Policy& policy, int64_t k, int layer,
                                const std::vector<std::vector<bool>>& candidate) {
  std::vector<Heads> layer_heads;
  for (int h = 0; h < sequence.kv_heads; ++h) {
    layer_heads.push_back(Signals(sequence, policy, k, layer, h, candidate[h]));
  }
  if (!policy.span_layer) return layer_heads;
  Heads all;
  for (const Heads& heads : layer_heads) {
    all.signal.insert(all.signal.end(), heads.signal.begin(), heads.signal.end());
    all.attention.insert(all.attention.end(), heads.attention.begin(), heads.attention.end());
    all.cross.insert(all.cross.end(), heads.cross.begin(), heads.cross.end());
    all.self.insert(all.self.end(), heads.self.begin(), heads.self.end());
    all.greatest_logit = std::max(all.greatest_logit, heads.greatest_logit);
    all.noise = std::max(all.noise, heads.noise);
  }
  return std::vector<Heads>(layer_heads.size(), all);
}

// Stage 3.
Row Grouped(const std::vector<Row>& heads, Reduce how) {
  Row grouped;
  for (size_t j = 0; !heads.empty() && j < heads[0].size(); ++j) {
    Row column;
    for (const Row& head : heads) column.push_back(head[j]);
    grouped.push_back(Reduced(column, how));
  }
  return grouped;
}

std::vector<std::vector<bool>> LayerCandidates(const Sequence& sequence, const Policy& policy, int64_t k, int layer) {
  std::vector<std::vector<bool>> candidate;
  for (int h = 0; h < sequence.kv_heads; ++h) {
    const Unit& unit = sequence.units[static_cast<size_t>(layer) * sequence.kv_heads + h];
    candidate.push_back(Candidates(unit, sequence.inputs.classes, policy, k));
  }
  return candidate;
}

// floor(c), c = k - the layer's mean number of protected tokens; at least 0.
int64_t UniformBudget(const std::vector<std::vector<bool>>& candidate, int64_t k) {
  const auto heads = static_cast<int64_t>(candidate.size());
  int64_t left = heads * k;
  for (const std::vector<bool>& unit : candidate) left -= std::count(unit.begin(), unit.end(), false);
  return std::max<int64_t>(0, left) / heads;
}

// Takes the pinned tokens out of the candidates: its best by attention, up to cumulative mass, at most so many.
void Pin(const Row& attention, int64_t mass_ppm, int64_t most, std::vector<bool>* candidate) {
  std::vector<size_t> best;
  for (size_t j = 0; j < attention.size(); ++j) {
    if ((*candidate)[j] && attention[j] > 0) best.push_back(j);
  }
  std::stable_sort(best.begin(), best.end(), [&](size_t a, size_t b) { return attention[a] > attention[b]; });
  const double limit = static_cast<double>(mass_ppm) / 1e6 * Sum(attention);
  double held = 0;
  for (size_t i = 0; i < best.size() && static_cast<int64_t>(i) < most; ++i) {
    held += attention[best[i]];
    if (held > limit) return;
    (*candidate)[best[i]] = false;
  }
}

Row RunningScores(const Policy& policy, const Unit& unit, const Row& grouped, size_t rows) {
  Row running = grouped;
  for (size_t j = 0; j < running.size(); ++j) {
    const double before = j < unit.running.size() ? unit.running[j] : 0.0;
    running[j] = FlushTiny(running[j] + std::pow(policy.decay, static_cast<double>(rows)) * before);
  }
  return running;
}

}  // namespace

double UnitScores::Epsilon(double exact, double typical) const {
  return (1e-4 + std::ldexp(greatest_logit, -21)) * std::max(exact, typical) + noise;
}

std::vector<bool> Candidates(const Unit& unit, const std::vector<int>& classes, const Policy& policy, int64_t k) {
  int64_t recent = policy.recent;
  if (policy.recent_kind == Recent::kBudgetMinus) recent = std::max<int64_t>(0, k - policy.recent);
  if (policy.recent_kind == Recent::kBudgetOver) recent = k / policy.recent;
  const auto n = static_cast<int64_t>(unit.positions.size());
  std::vector<bool> candidate;
  for (int64_t j = 0; j < n; ++j) {
    const bool flagged = !policy.classes.empty() &&
                         std::count(policy.classes.begin(), policy.classes.end(), classes[unit.positions[j]]) > 0;
    candidate.push_back(unit.positions[j] >= policy.sinks && j < n - recent && !flagged);
  }
  return candidate;
}

std::vector<UnitScores> ScoreLayer(const Sequence& sequence, const Policy& policy, int64_t k, int layer,
                                   const std::vector<Row>* attention) {
  std::vector<std::vector<bool>> candidate = LayerCandidates(sequence, policy, k, layer);
  const int64_t uniform = UniformBudget(candidate, k);
  const std::vector<Heads> signals = LayerSignals(sequence, policy, k, layer, candidate);

  std::vector<UnitScores> layer_scores(signals.size());
  for (size_t h = 0; h < signals.size(); ++h) {
    layer_scores[h].attention = Grouped(signals[h].attention, Reduce::kMean);
    if (policy.pinned_mass_ppm == 0) continue;
    Pin(attention == nullptr ? layer_scores[h].attention : (*attention)[h], policy.pinned_mass_ppm, uniform,
        &candidate[h]);
  }
  for (size_t h = 0; h < signals.size(); ++h) {
    UnitScores& unit = layer_scores[h];
    unit.greatest_logit = policy.windowed() || policy.signal == Signal::kExpected ? signals[h].greatest_logit : 1.0;
    unit.noise =
        signals[h].noise * (policy.group == Reduce::kSum ? static_cast<double>(signals[h].signal.size()) : 1.0);
    if (policy.select == Select::kTwoLists) unit.noise *= 2;  // both parts are flushed
    const auto refined = [&](const Row& row, double* noise) {
      return Refined(sequence, policy, layer, static_cast<int>(h), row, candidate, uniform, &unit.greatest, noise);
    };
    Row scores;  // of the candidates
    if (policy.after_refine) {
      std::vector<Row> heads;
      const double noise = unit.noise;
      for (const Row& head : signals[h].signal) heads.push_back(refined(head, &(unit.noise = noise)));
      scores = Grouped(heads, policy.group);
    } else {
      Row grouped = Grouped(signals[h].signal, policy.group);
      if (policy.accumulate == Accumulate::kRunning) {
        const Unit& residents = sequence.units[static_cast<size_t>(layer) * sequence.kv_heads + h];
        grouped = unit.running = RunningScores(policy, residents, grouped, RowsUsed(sequence, policy).size());
        unit.greatest = Max(grouped);
      }
      scores = refined(grouped, &unit.noise);
    }
    unit.greatest = std::max(unit.greatest, Max(scores));
    if (!scores.empty()) unit.mean = Reduced(scores, Reduce::kMean);
    size_t next = 0;
    for (const bool is_candidate : candidate[h]) unit.scores.push_back(is_candidate ? scores[next++] : kProtected);
    unit.cross = Grouped(signals[h].cross, policy.group);
    unit.self = Grouped(signals[h].self, policy.group);
  }
  return layer_scores;
}

}  // namespace kvsteward::reference
