// What the launch asks of the runtime.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace kvsteward::emulation {

// Keeps an error for cudaGetLastError, and returns it.
cudaError_t Note(cudaError_t error);

// How much dynamic shared memory a block of the kernel may have: 48 KiB, unless cudaFuncSetAttribute said otherwise.
size_t MostDynamicShared(const void* kernel);

}  // namespace kvsteward::emulation
