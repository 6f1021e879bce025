// The query rows that a policy uses, on their way to the device. Stateless.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "kernels/cuda/device.h"
#include "kvsteward/engine/paged.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine::cuda {

// The last `rows` rows of the window, of `layers` layers from `first_layer` on, packed: [layers, query_heads, rows,
// head_dim].
size_t QueryBytes(const SequenceView& sequence, int32_t layers, int32_t rows);
absl::Status CopyQueries(Device& device, const SequenceView& sequence, int32_t first_layer, int32_t layers,
                         int32_t rows, std::byte* to);

// Their positions and scales (ScoreArgs), each [rows].
void FillRows(const SequenceView& sequence, const Policy& policy, int64_t k, std::span<int32_t> positions,
              std::span<float> scales);

}  // namespace kvsteward::engine::cuda
