#include "kernels/cpu/row_weights.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "kernels/cpu/element.h"
#include "kernels/plan/row.h"

namespace kvsteward::engine::cpu {
namespace {

struct Normaliser {
  float max = 0;   // near the largest scaled logit
  double sum = 0;  // of 2^(scaled logit - max); 0: the row sees nothing
};

// The chunks' normalisers to the rows', in the chunks' order.
std::vector<Normaliser> Combine(const Normalisers& chunks, size_t rows) {
  std::vector<Normaliser> combined(rows);
  for (size_t row = 0; row < rows; ++row) {
    float max = -FLT_MAX;
    for (size_t at = row; at < chunks.max.size(); at += rows) max = std::max(max, chunks.max[at]);
    double sum = 0;
    for (size_t at = row; at < chunks.max.size(); at += rows) {
      sum += chunks.sum[at] * std::exp2(double{chunks.max[at]} - max);
    }
    if (sum > 0) combined[row] = {max, sum};
  }
  return combined;
}

bool Sees(const QueryRows& rows, size_t row, int32_t j) {
  if (j >= rows.visible[row]) return false;
  if (rows.open == nullptr) return true;
  return rows.open->begin <= j && j < rows.open->end && !std::ranges::binary_search(rows.open->holes, j);
}

// By what a pool of `width` multiplies each row's sum, in units of 1 / width. It takes away the parts of the first and
// the last tokens' probabilities that fall beyond the ends, so only those are computed.
std::vector<double> PooledSums(const UsedRows& used, int32_t kv_head, const QueryRows& rows,
                               std::span<const float> scale, std::span<const Normaliser> normalisers, int32_t width) {
  const SequenceView& sequence = *used.sequence;
  const UnitView& unit = used.Unit(kv_head);
  const int32_t n = unit.length;
  const int32_t half = width / 2;
  const bool all = n <= 2 * half;
  std::vector<int32_t> tokens;
  for (int32_t j = 0; j < n; ++j) {
    if (!all && j == half) j = n - half;
    tokens.push_back(j);
  }
  const auto dim = static_cast<size_t>(rows.dim);
  std::vector<double> keys;
  for (const int32_t j : tokens) {
    const std::byte* key = sequence.pool.keys(BlockOf(unit.row, static_cast<uint32_t>(j / kBlockTokens))) +
                           static_cast<size_t>(j % kBlockTokens) * sequence.geometry.token_bytes();
    for (size_t i = 0; i < dim; ++i) keys.push_back(Element(sequence.geometry.dtype, key, i));
  }
  std::vector<double> sums(normalisers.size());
  std::vector<double> query(dim);
  for (size_t row = 0; row < sums.size(); ++row) {
    const std::byte* numbers = used.Query(kv_head, static_cast<int32_t>(row));
    for (size_t i = 0; i < dim; ++i) query[i] = Element(sequence.window.dtype, numbers, i);
    double sum = all ? 0 : width;
    for (size_t t = 0; t < tokens.size(); ++t) {
      if (!Sees(rows, row, tokens[t])) continue;
      double logit = 0;
      for (size_t i = 0; i < dim; ++i) logit += query[i] * keys[t * dim + i];
      const double share = std::exp2(double{scale[row]} * logit - normalisers[row].max) / normalisers[row].sum;
      const int32_t pools = std::min(tokens[t] + half, n - 1) - std::max(tokens[t] - half, 0) + 1;
      sum += share * (all ? pools : pools - width);
    }
    sums[row] = sum;
  }
  return sums;
}

}  // namespace

double ExponentOf(const Signal& signal) {
  return signal.kind == Signal::Kind::kPower ? static_cast<double>(signal.exponent_ppm) / double{kPpm} : 1;
}

std::vector<float> PowerScale(const QueryRows& rows, const Signal& signal) {
  std::vector<float> scale(rows.scale, rows.scale + rows.count());
  const double exponent = ExponentOf(signal);
  for (float& value : scale) value = static_cast<float>(value * exponent);
  return scale;
}

RowWeights WeighRows(const UsedRows& used, int32_t kv_head, const QueryRows& rows, const Normalisers& normalisers,
                     const Normalisers& pooled) {
  constexpr double kSlack = 16;  // a logit may pass its row's maximum by so much
  const Policy& policy = *used.policy;
  const auto count = static_cast<size_t>(rows.count());
  const double exponent = ExponentOf(policy.signal);
  const double decay = policy.running() ? static_cast<double>(policy.accumulate.decay_ppm) / double{kPpm} : 1;
  const double least = double{kLeastScore} / used.count * std::exp2(-kSlack * exponent);
  const int32_t width = policy.accumulate.row_pool;
  const std::vector<Normaliser> combined = Combine(normalisers, count);
  RowWeights weights = {PowerScale(rows, policy.signal), std::vector<float>(count), std::vector<float>(count),
                        std::vector<float>(count)};
  std::vector<double> pooled_sums;
  if (width > 1) {
    const std::vector<Normaliser> in_power = exponent == 1 ? combined : Combine(pooled, count);
    pooled_sums = PooledSums(used, kv_head, rows, weights.scale, in_power, width);
  }
  for (size_t row = 0; row < count; ++row) {
    if (combined[row].sum == 0) continue;
    double sum = combined[row].sum;
    if (policy.signal.kind == Signal::Kind::kSoftmax1) sum += std::exp2(-double{combined[row].max});
    const double share = std::pow(sum, -exponent);
    const int32_t later = used.count - 1 - static_cast<int32_t>(row) % used.count;
    double weight = share * std::pow(decay, later);
    weights.max[row] = static_cast<float>(combined[row].max * exponent);
    if (weight < least) continue;
    if (width > 1) weight /= pooled_sums[row];
    weights.weight[row] = static_cast<float>(weight * kWeightUnit);
    weights.share[row] = static_cast<float>(share * kWeightUnit);
  }
  return weights;
}

}  // namespace kvsteward::engine::cpu
