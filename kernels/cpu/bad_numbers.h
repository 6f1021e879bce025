// The slow search behind the scoring pass: it only runs after a pass has met a number that is not finite, and says
// which.
#pragma once

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "kernels/cpu/tiles.h"
#include "kvsteward/engine/paged.h"

namespace kvsteward::engine::cpu {

// INVALID_ARGUMENT for the first of: a query row used, in (head, row) order; a key, in token order; a logit that its
// row sees and that overflows float32. OK if there is none (then only a logit that no row sees was not finite, which
// harms nothing). `first_row` is the first row of the window that is used; only keys [begin, end) are searched.
// REQUIRES: `begin` is a multiple of a block's tokens.
absl::Status FindBadNumber(const SequenceView& sequence, int32_t layer, int32_t kv_head, const QueryRows& rows,
                           int32_t first_row, int32_t begin, int32_t end);

// The error for a key that holds a number that is not finite.
absl::Status BadKey(int32_t layer, int32_t kv_head, int32_t token);

// The error for a number that a caller supplied for a token, in `tensor`, and that is negative or not finite.
absl::Status BadInput(std::string_view tensor, int32_t layer, int32_t kv_head, int32_t token);

// The error for a value norm that is not finite.
absl::Status BadValue(int32_t layer, int32_t kv_head, int32_t token);

// The error for a score that is not finite.
absl::Status BadScore(int32_t layer, int32_t kv_head, int32_t token);

}  // namespace kvsteward::engine::cpu
