// Value norms of residents that have none yet. Stateless; all memory is the caller's.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/views.h"

namespace kvsteward::engine::cuda {

// Writes pool.norms[block * 16 + slot] of residents [normed[u], length[u]) of every unit: the sum of squares
// (`squares`) or of magnitudes of the token's values, added up in an order that depends on head_dim alone. bad[u]
// becomes at most the index of the first of them whose norm is not finite (bad_token.h). `normed`: [units]. REQUIRES:
// pool.data is aligned to 16 bytes, pool.block_bytes is 32 tokens.
cudaError_t LaunchNorms(const DevicePool& pool, const DeviceUnits& units, int32_t head_dim, DType dtype, bool squares,
                        const int32_t* normed, int64_t* bad, cudaStream_t stream);

}  // namespace kvsteward::engine::cuda
