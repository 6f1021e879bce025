// Times work on a stream by CUDA events. Every sample waits behind a pause, so that all of its launches are there when
// the first begins: what is read is the device's time, not the host's. Thread-compatible.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <vector>

#include "tests/gpu/bench/report.h"

namespace kvsteward::gpu_bench {

enum class How { kStream, kGraph };  // launched one by one, or as a graph that was captured once

class Timer {
 public:
  explicit Timer(int repetitions);
  ~Timer();
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  cudaStream_t stream() const { return stream_; }
  // Microseconds of body(variant), which launches on stream(). Variants take turns, so that none finds in the cache
  // what it left there itself. REQUIRES: variants >= 1.
  Reading Time(How how, int variants, const std::function<cudaError_t(int variant)>& body);

 private:
  int repetitions_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
};

}  // namespace kvsteward::gpu_bench
