// The selection `two_stage` (CriticalKV): first the best by score, then the best by score times the norm that the
// value has after the output projection. Stateless; thread-safe.
#pragma once

#include <cstdint>
#include <span>

namespace kvsteward::engine {

// Sets the bits of `share` candidates: of the floor(fraction share) best by s, then of the rest's best by
// (s + 1e-4 rows) * projected. `scores`: a row as in scan.h; `rows`: what the scores are a sum of, 1 if they are none.
// REQUIRES: the marks' bits, and no others, are set; the row has `share` candidates.
void KeepTwoStage(int64_t fraction_ppm, int32_t rows, std::span<const float> scores, std::span<const float> projected,
                  int64_t share, std::span<uint64_t> mask);

}  // namespace kvsteward::engine
