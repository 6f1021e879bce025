// What several stages of the reference need: sums, pools and the flush of tiny scores.
#pragma once

#include "tests/reference/reference.h"

namespace kvsteward::reference {

// A score below 2^-100 is 0.
double FlushTiny(double score);

double Sum(const Row& terms);
double Max(const Row& terms);  // 0 of nothing
double Reduced(const Row& terms, Reduce how);

// Entry j of the pooled row: of what lies within (width - 1) / 2 of it.
Row MaxPooled(const Row& row, int width);
Row AvgPooled(const Row& row, int width, bool padded);  // padded: divides by width always

}  // namespace kvsteward::reference
