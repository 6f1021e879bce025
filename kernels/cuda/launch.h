// How kernels are launched: as a plain call. The .cu files are so C++ too, which the emulator for tests compiles
// (tests/emulation). Stateless.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

namespace kvsteward::engine::cuda {

// Starts `kernel` on `stream`. `shared_bytes`: of SharedMemory(), ptx.cuh.
template <class... Params, class... Args>
cudaError_t Launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
                   Args&&... args) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...);
}

}  // namespace kvsteward::engine::cuda
