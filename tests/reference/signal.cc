#include "tests/reference/signal.h"

#include <algorithm>
#include <cmath>

#include "tests/reference/arithmetic.h"

namespace kvsteward::reference {
namespace {

double Dot(const double* a, const double* b, int dim) {
  double dot = 0;
  for (int x = 0; x < dim; ++x) dot += a[x] * b[x];
  return dot;
}

const Unit& UnitOf(const Sequence& sequence, int layer, int query_head) {
  const int group = sequence.query_heads / sequence.kv_heads;
  return sequence.units[static_cast<size_t>(layer) * sequence.kv_heads + query_head / group];
}

// The softmax over the tokens with `takes_part`; the others get 0. Through logarithms, so that a power of a tiny share
// is not lost.
Row Softmax(const Row& logits, const std::vector<bool>& takes_part, const Policy& policy) {
  double shift = policy.signal == Signal::kSoftmax1 ? 0.0 : -INFINITY;
  for (size_t j = 0; j < logits.size(); ++j) {
    if (takes_part[j]) shift = std::max(shift, logits[j]);
  }
  double sum = policy.signal == Signal::kSoftmax1 ? std::exp(-shift) : 0.0;
  for (size_t j = 0; j < logits.size(); ++j) {
    if (takes_part[j]) sum += std::exp(logits[j] - shift);
  }
  const double exponent = policy.signal == Signal::kPower ? policy.exponent : 1.0;
  Row shares(logits.size(), 0.0);
  for (size_t j = 0; j < logits.size(); ++j) {
    if (takes_part[j]) shares[j] = std::exp(exponent * (logits[j] - shift - std::log(sum)));
  }
  return shares;
}

}  // namespace

std::vector<int> RowsUsed(const Sequence& sequence, const Policy& policy) {
  std::vector<int> rows;
  const int submitted = static_cast<int>(sequence.row_positions.size());
  for (int i = 0; i < submitted; ++i) {
    if (policy.window > 0 && i < submitted - policy.window) continue;
    if (policy.accumulate == Accumulate::kRunning && sequence.row_positions[i] < sequence.observed) continue;
    rows.push_back(i);
  }
  return rows;
}

std::vector<Row> Attention(const Sequence& sequence, const Policy& policy, int64_t k, int layer, int query_head,
                           const std::vector<bool>& candidate, double* greatest_logit) {
  const Unit& unit = UnitOf(sequence, layer, query_head);
  const size_t n = unit.positions.size();
  const int dim = sequence.head_dim;
  const size_t first_row =
      (static_cast<size_t>(layer) * sequence.query_heads + query_head) * sequence.row_positions.size();
  std::vector<Row> attention;
  for (const int i : RowsUsed(sequence, policy)) {
    const int64_t row_position = sequence.row_positions[i];
    double gain = 1;
    if (policy.signal == Signal::kStepGainSoftmax) {
      const double ratio = static_cast<double>(row_position + 1) / static_cast<double>(k);
      gain = std::max(policy.g_min, std::sqrt(2 * std::log(std::max(1.0, ratio))));
    }
    Row logits(n, 0.0);
    std::vector<bool> takes_part(n, false);
    for (size_t j = 0; j < n; ++j) {
      if (unit.positions[j] > row_position || (policy.over_candidates && !candidate[j])) continue;
      takes_part[j] = true;
      const double dot = Dot(&sequence.queries[(first_row + i) * dim], &unit.keys[j * dim], dim);
      logits[j] = gain * dot / std::sqrt(static_cast<double>(dim));
      *greatest_logit = std::max(*greatest_logit, std::abs(logits[j]));
    }
    attention.push_back(Softmax(logits, takes_part, policy));
  }
  return attention;
}

Row KeyDifference(const Sequence& sequence, const Unit& unit, double* noise) {
  const size_t n = unit.positions.size();
  const int dim = sequence.head_dim;
  Row mean(dim, 0.0);
  std::vector<Row> directions;
  for (size_t j = 0; j < n; ++j) {
    const double* key = &unit.keys[j * dim];
    const double length = std::sqrt(Dot(key, key, dim));
    directions.emplace_back(dim, 0.0);
    for (int x = 0; x < dim; ++x) {
      if (length > 0) directions[j][x] = key[x] / length;
      mean[x] += directions[j][x] / static_cast<double>(n);
    }
  }
  const double mean_length = std::sqrt(Dot(mean.data(), mean.data(), dim));
  const bool any =
      std::any_of(directions.begin(), directions.end(), [](const Row& d) { return Max(d) != 0 || Sum(d) != 0; });
  *noise = std::max(*noise, any ? std::min(2.0, 1e-12 / mean_length) : 1e-12);
  Row scores;
  for (const Row& direction : directions) {
    const double cosine = mean_length > 0 ? Dot(direction.data(), mean.data(), dim) / mean_length : 0.0;
    scores.push_back(std::max(0.0, 1 - cosine));
  }
  return scores;
}

Row ExpectedAttention(const Sequence& sequence, const Policy& policy, int layer, int query_head,
                      double* greatest_logit) {
  const Unit& unit = UnitOf(sequence, layer, query_head);
  const int dim = sequence.head_dim;
  const size_t head = static_cast<size_t>(layer) * sequence.query_heads + query_head;
  const double* mean = &sequence.inputs.query_mean[head * dim];
  const double* covariance = &sequence.inputs.query_covariance[head * dim * dim];
  Row logits;
  std::vector<bool> takes_part;
  for (size_t j = 0; j < unit.positions.size(); ++j) {
    const double* key = &unit.keys[j * dim];
    double quadratic = 0;
    for (int x = 0; x < dim; ++x) quadratic += key[x] * Dot(covariance + static_cast<size_t>(x) * dim, key, dim);
    logits.push_back(Dot(key, mean, dim) / std::sqrt(static_cast<double>(dim)) + quadratic / (2.0 * dim));
    takes_part.push_back(unit.positions[j] >= policy.sinks);
    if (takes_part[j]) *greatest_logit = std::max(*greatest_logit, std::abs(logits[j]));
  }
  Row scores = Softmax(logits, takes_part, policy);
  for (double& s : scores) s = FlushTiny(s);
  return scores;
}

std::vector<Row> RowsPooled(const std::vector<Row>& rows, int width) {
  std::vector<Row> pooled;
  for (const Row& row : rows) {
    pooled.push_back(AvgPooled(row, width, /*padded=*/true));
    const double sum = Sum(pooled.back());
    for (double& a : pooled.back()) a *= sum > 0 ? Sum(row) / sum : 1.0;
  }
  return pooled;
}

Row Accumulated(const std::vector<Row>& rows, const Policy& policy, size_t n) {
  Row accumulated;
  for (size_t j = 0; j < n; ++j) {
    Row column;
    for (const Row& row : rows) column.push_back(row[j]);
    const double mean = rows.empty() ? 0 : Reduced(column, Reduce::kMean);
    double score = 0;
    switch (policy.accumulate) {
      case Accumulate::kSum:
        score = Sum(column);
        break;
      case Accumulate::kMean:
        score = mean;
        break;
      case Accumulate::kMax:
        score = Max(column);
        break;
      case Accumulate::kMeanVar: {
        Row squares;
        for (const double a : column) squares.push_back((a - mean) * (a - mean));
        score = mean + policy.gamma * (rows.empty() ? 0 : Reduced(squares, Reduce::kMean));
        break;
      }
      case Accumulate::kRunning:
        for (size_t i = 0; i < column.size(); ++i) {
          score += std::pow(policy.decay, static_cast<double>(column.size() - 1 - i)) * column[i];
        }
        break;
    }
    accumulated.push_back(FlushTiny(score));
  }
  return accumulated;
}

double VarianceNoise(const std::vector<Row>& rows, const Policy& policy, size_t n, double greatest_logit) {
  double noise = 0;
  for (size_t j = 0; j < n && policy.accumulate == Accumulate::kMeanVar; ++j) {
    Row column;
    for (const Row& row : rows) column.push_back(row[j]);
    const double mean = Reduced(column, Reduce::kMean);
    double variance = 0;
    for (const double a : column) variance += (a - mean) * (a - mean) / static_cast<double>(rows.size());
    const double lost = std::ldexp(greatest_logit, -21);
    const double error = (1e-6 + lost) * Max(column);
    const double grown = policy.gamma * (2 * std::sqrt(variance) * error + error * error);
    noise = std::max(noise, grown - (1e-4 + lost) * (mean + policy.gamma * variance));
  }
  return noise;
}

}  // namespace kvsteward::reference
