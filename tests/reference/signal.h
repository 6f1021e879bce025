// Stages 1 and 2 of the reference: what each resident is worth to one query head, and over rows.
#pragma once

#include "tests/reference/reference.h"

namespace kvsteward::reference {

// Attention of the rows used, [rows][n], before anything is done to it. Grows *greatest_logit.
std::vector<Row> Attention(const Sequence& sequence, const Policy& policy, int64_t k, int layer, int query_head,
                           const std::vector<bool>& candidate, double* greatest_logit);

// 1 - cos to the mean direction, at least 0. Grows *noise to what float64 may lose: all, if directions cancel.
Row KeyDifference(const Sequence& sequence, const Unit& unit, double* noise);

// Attention that queries of the given moments are expected to pay. Grows *greatest_logit.
Row ExpectedAttention(const Sequence& sequence, const Policy& policy, int layer, int query_head,
                      double* greatest_logit);

// Each row pooled and rescaled to its former sum.
std::vector<Row> RowsPooled(const std::vector<Row>& rows, int width);

// One score of each of the n residents from its column. With no row all are 0.
Row Accumulated(const std::vector<Row>& rows, const Policy& policy, size_t n);

// What float32's error of a probability may make of gamma times a variance, beyond what epsilon allows: much where rows
// agree, so that the variance is nothing but that error.
double VarianceNoise(const std::vector<Row>& rows, const Policy& policy, size_t n, double greatest_logit);

}  // namespace kvsteward::reference
