#include "tests/reference/arithmetic.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace kvsteward::reference {
namespace {

template <class Combine>
Row Pooled(const Row& row, int width, Combine combine) {
  Row pooled;
  const auto n = static_cast<int64_t>(row.size());
  for (int64_t j = 0; j < n; ++j) {
    const int64_t begin = std::max<int64_t>(0, j - width / 2);
    const int64_t end = std::min<int64_t>(n, j + width / 2 + 1);
    pooled.push_back(combine(Row(row.begin() + begin, row.begin() + end)));
  }
  return pooled;
}

}  // namespace

double FlushTiny(double score) { return score < std::ldexp(1.0, -100) ? 0.0 : score; }

double Sum(const Row& terms) { return std::accumulate(terms.begin(), terms.end(), 0.0); }

double Max(const Row& terms) { return terms.empty() ? 0.0 : *std::max_element(terms.begin(), terms.end()); }

double Reduced(const Row& terms, Reduce how) {
  if (how == Reduce::kMax) return Max(terms);
  return how == Reduce::kMean ? Sum(terms) / static_cast<double>(terms.size()) : Sum(terms);
}

Row MaxPooled(const Row& row, int width) { return Pooled(row, width, Max); }

Row AvgPooled(const Row& row, int width, bool padded) {
  return Pooled(row, width,
                [&](const Row& near) { return Sum(near) / (padded ? width : static_cast<double>(near.size())); });
}

}  // namespace kvsteward::reference
