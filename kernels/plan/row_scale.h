// By what a query row's logits are multiplied before the softmax, in powers of two. Stateless.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>

#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {

// g log2(e) / sqrt(d) of a query at `position`: exp(g l / sqrt(d)) = 2^(scale l). `k` is the sequence's mean budget; it
// is only looked at for the step gain.
inline float RowScale(const Signal& signal, int64_t k, int32_t position, int32_t head_dim) {
  double gain = 1;
  if (signal.kind == Signal::Kind::kStepGainSoftmax) {
    const double ratio = (static_cast<double>(position) + 1) / static_cast<double>(k);
    gain =
        std::max(static_cast<double>(signal.g_min_ppm) / double{kPpm}, std::sqrt(2 * std::log(std::max(1.0, ratio))));
  }
  return static_cast<float>(gain * std::numbers::log2e / std::sqrt(static_cast<double>(head_dim)));
}

}  // namespace kvsteward::engine
