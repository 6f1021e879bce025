// Failures on demand, for tests. Thread-safe.
#pragma once

#include <cstdint>

namespace kvsteward::emulation {

// The next `count` allocations by the runtime, of whatever kind, succeed; those after them fail with
// cudaErrorMemoryAllocation. Below 0: none fails. A process begins with KVSTEWARD_EMULATED_ALLOCATIONS, or -1.
void FailAllocationsAfter(int64_t count);

// From now on, or no longer, streams and events fail with cudaErrorIllegalAddress, as after a kernel that went astray.
void LoseDevice(bool lost);

}  // namespace kvsteward::emulation
