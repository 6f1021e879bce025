// How kernels tell the host of numbers that are not finite: per unit the first token that one was met at. The array is
// the caller's.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace kvsteward::engine::cuda {

// What a unit's entry is while nothing was met: greater than every index.
inline constexpr int64_t kNoBadToken = 0x7f7f7f7f7f7f7f7f;
// Something that belongs to no token was not finite: a caller-supplied normaliser.
inline constexpr int64_t kBadNormaliser = -1;

// Clears `bad` [units].
inline cudaError_t ResetBadTokens(int64_t* bad, int32_t units, cudaStream_t stream) {
  return cudaMemsetAsync(bad, 0x7f, static_cast<size_t>(units) * sizeof(*bad), stream);
}

}  // namespace kvsteward::engine::cuda
