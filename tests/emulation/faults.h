// Failures on demand, for tests. Thread-safe.
#pragma once

#include <cstdint>

namespace kvsteward::emulation {

// The next `count` allocations by the runtime, of whatever kind, succeed; those after them fail with
// cudaErrorMemoryAllocation. Below 0: none fails. A process begins with KVSTEWARD_EMULATED_ALLOCATIONS, or -1.
void FailAllocationsAfter(int64_t count);

}  // namespace kvsteward::emulation
