// Stage 4 on the device: refinements of the candidates' scores of all units, in order, as policies.md defines them.
// Nothing here owns memory. Sums are made over fixed tiles in a fixed order: results do not depend on the grid.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/candidates.h"
#include "kernels/cuda/views.h"

namespace kvsteward::engine::cuda {

// One refinement. A field that its kind does not have is not looked at.
struct RefineStep {
  enum class Kind { kMaxPool, kAvgPool, kValuePrior, kValueScale, kClampToMean };
  enum class Norm { kAsStored, kRootOfStored };  // pool.norms hold ||v||^2 or ||v||_1; `l2` is the root of the former
  enum class Scale { kMax, kMean, kNone };
  Kind kind = Kind::kMaxPool;
  int32_t pool = 1;     // odd width, at most kMostPool
  bool padded = false;  // the edge: divide by `pool` always, not by how many neighbours there are
  Norm norm = Norm::kAsStored;
  Scale scale = Scale::kMax;
};

// The work of a pool grows with its width.
inline constexpr int32_t kMostPool = 1025;

// Of each unit, what was not finite first: the number of refinements before it in the upper half, the resident in the
// lower; or kNothingBad.
inline constexpr uint64_t kNothingBad = ~uint64_t{0};

size_t RefineWorkspaceBytes(const DeviceUnits& units);

// `scores` of candidates, one for each token, become `refined`, which holds kProtected for every other resident. Scores
// below 2^-100 become 0, before the first refinement and after each. `scores` is overwritten; `bad` is [units]. Refined
// scores are counted in `first_counts` (select.h) unless that is null.
// cudaErrorNotSupported for a pool that is too wide. REQUIRES: the pool holds norms of every resident if a step reads
// them; `workspace` is aligned to 256 bytes.
cudaError_t LaunchRefine(const DevicePool& pool, const DeviceUnits& units, const DeviceCandidates& candidates,
                         const RefineStep* steps, int32_t count, float* scores, float* refined, uint64_t* bad,
                         void* workspace, cudaStream_t stream, uint32_t* first_counts = nullptr);

}  // namespace kvsteward::engine::cuda
