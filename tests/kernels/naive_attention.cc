#include "tests/kernels/naive_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

namespace kvsteward::engine::cpu {
namespace {

using Column = std::vector<double>;

double Flush(double score) { return score < 0x1p-100 ? 0 : score; }

// The average pool of a row, rescaled to the row's sum.
Column Pooled(const Column& row, int32_t width) {
  const auto n = static_cast<int32_t>(row.size());
  Column pooled(row.size());
  double before = 0, after = 0;
  for (int32_t j = 0; j < n; ++j) {
    for (int32_t t = std::max(0, j - width / 2); t <= std::min(n - 1, j + width / 2); ++t) {
      pooled[static_cast<size_t>(j)] += row[static_cast<size_t>(t)] / width;
    }
    before += row[static_cast<size_t>(j)];
    after += pooled[static_cast<size_t>(j)];
  }
  for (double& value : pooled) value *= after > 0 ? before / after : 1;
  return pooled;
}

Column Accumulated(const Accumulate& accumulate, const std::vector<Column>& rows, size_t n) {
  Column scores(n);
  for (size_t j = 0; j < n; ++j) {
    double sum = 0, max = 0, squares = 0;
    for (size_t i = 0; i < rows.size(); ++i) {
      const double weight =
          accumulate.kind != Accumulate::Kind::kRunning
              ? 1
              : std::pow(static_cast<double>(accumulate.decay_ppm) / 1e6, static_cast<double>(rows.size() - 1 - i));
      sum += weight * rows[i][j];
      max = std::max(max, rows[i][j]);
    }
    const double mean = sum / static_cast<double>(rows.size());
    for (const Column& row : rows) squares += (row[j] - mean) * (row[j] - mean);
    const double variance = squares / static_cast<double>(rows.size());
    switch (accumulate.kind) {
      case Accumulate::Kind::kSum:
      case Accumulate::Kind::kRunning:
        scores[j] = sum;
        break;
      case Accumulate::Kind::kMean:
        scores[j] = mean;
        break;
      case Accumulate::Kind::kMax:
        scores[j] = max;
        break;
      case Accumulate::Kind::kMeanVar:
        scores[j] = mean + static_cast<double>(accumulate.gamma_ppm) / 1e6 * variance;
        break;
    }
    scores[j] = Flush(scores[j]);
  }
  return scores;
}

void AddHead(Group::Kind kind, double heads, const Column& head, Column& group) {
  for (size_t j = 0; j < head.size(); ++j) {
    group[j] = kind == Group::Kind::kMax ? std::max(group[j], head[j])
                                         : group[j] + head[j] / (kind == Group::Kind::kMean ? heads : 1);
  }
}

}  // namespace

Expected Naive(Layer& layer, const SequenceView& view, const Policy& policy, int64_t k, int32_t kv_head,
               const CandidateSet& candidates) {
  const Shape& shape = layer.shape();
  const auto n = static_cast<size_t>(shape.lengths[static_cast<size_t>(kv_head)]);
  Expected expected;
  expected.attention.resize(n);
  const bool after = policy.group.place == Group::Place::kAfterRefine;
  if (!after) expected.scores = expected.cross = expected.self = Column(n);
  std::vector<int32_t> used;
  for (int32_t row = 0; row < static_cast<int32_t>(shape.rows.size()); ++row) {
    const bool in_window = policy.window == 0 || row >= static_cast<int32_t>(shape.rows.size()) - policy.window;
    if (in_window && (!policy.running() || shape.rows[static_cast<size_t>(row)] >= view.observed)) used.push_back(row);
  }
  for (int32_t g = 0; g < shape.group; ++g) {
    std::vector<Column> all;
    std::vector<Column> cross;
    std::vector<Column> self;
    for (const int32_t row : used) {
      const int32_t position = shape.rows[static_cast<size_t>(row)];
      double gain = 1;
      if (policy.signal.kind == Signal::Kind::kStepGainSoftmax) {
        gain = std::max(static_cast<double>(policy.signal.g_min_ppm) / 1e6,
                        std::sqrt(2 * std::log(std::max(1.0, (position + 1.0) / static_cast<double>(k)))));
      }
      Column x(n, -std::numeric_limits<double>::infinity());
      double max = -std::numeric_limits<double>::infinity();
      for (size_t j = 0; j < n; ++j) {
        const auto token = static_cast<int32_t>(j);
        if (layer.Position(kv_head, token) > position) continue;
        if (policy.signal.over == Signal::Over::kCandidates && (token < candidates.begin || token >= candidates.end ||
                                                                std::ranges::binary_search(candidates.holes, token))) {
          continue;
        }
        const double logit = layer.Dot(layer.Query(kv_head * shape.group + g, row), layer.Key(kv_head, token));
        x[j] = gain * logit / std::sqrt(shape.dim);
        expected.greatest_logit = std::max(expected.greatest_logit, std::abs(x[j]));
        max = std::max(max, x[j]);
      }
      Column probabilities(n);
      if (std::isfinite(max)) {
        if (policy.signal.kind == Signal::Kind::kSoftmax1) max = std::max(max, 0.0);
        double sum = policy.signal.kind == Signal::Kind::kSoftmax1 ? std::exp(-max) : 0;
        for (size_t j = 0; j < n; ++j) sum += probabilities[j] = std::exp(x[j] - max);
        for (double& p : probabilities) p /= sum;
      }
      const double divisor = static_cast<double>(used.size()) * shape.group;
      for (size_t j = 0; j < n; ++j) expected.attention[j] += probabilities[j] / divisor;
      if (policy.signal.kind == Signal::Kind::kPower) {
        for (double& p : probabilities) p = std::pow(p, static_cast<double>(policy.signal.exponent_ppm) / 1e6);
      }
      all.push_back(Pooled(probabilities, policy.accumulate.row_pool));
      cross.push_back(all.back());
      self.push_back(all.back());
      for (size_t j = 0; j < n; ++j) {
        const bool same = layer.ClassAt(position) == layer.ClassAt(layer.Position(kv_head, static_cast<int32_t>(j)));
        (same ? cross : self).back()[j] = 0;
      }
    }
    const Column head = Accumulated(policy.accumulate, all, n);
    if (after) {
      expected.scores.insert(expected.scores.end(), head.begin(), head.end());
    } else {
      AddHead(policy.group.kind, shape.group, head, expected.scores);
      AddHead(policy.group.kind, shape.group, Accumulated(policy.accumulate, cross, n), expected.cross);
      AddHead(policy.group.kind, shape.group, Accumulated(policy.accumulate, self, n), expected.self);
    }
  }
  return expected;
}

}  // namespace kvsteward::engine::cpu
