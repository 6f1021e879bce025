// How much heap a stretch of code needs at most, counted by replacing malloc in this executable. Thread-safe.
#pragma once

#include <cstddef>

namespace kvsteward::bench {

// Starts a new measurement at the heap's present size.
void ResetHeapPeak();
// The most bytes in use since then, beyond those in use at the reset.
size_t HeapPeak();

}  // namespace kvsteward::bench
