// What the benchmark is made of. Each adds its figures to the report; failures count as in check.h.
#pragma once

#include <string>

#include "tests/gpu/bench/report.h"
#include "tests/gpu/bench/timer.h"

namespace kvsteward::gpu_bench {

// The most that this device did in this run.
struct Ceilings {
  double copy = 0;  // bytes read and written, per microsecond
  double mma = 0;   // bf16 operations per microsecond
};

// `matmul_tflops`: what a library's product of matrices reached in this run, 0 if nobody knows; the greater rate
// counts.
Ceilings MeasureCeilings(Timer& timer, double matmul_tflops, Report& report);

// The stages of an eviction at 32k and 128k tokens. `mask_path`: where the tokens that the comparison with PyTorch
// keeps are written, or empty.
void MeasureStages(Timer& timer, const Ceilings& ceilings, const std::string& mask_path, Report& report);

// An eviction of 32 layers of 32k tokens through the CUDA engine.
void MeasureEvict(Timer& timer, Report& report);

// Decoding over what an eviction leaves: heads of different lengths against heads of one.
void MeasureAttention(Timer& timer, const Ceilings& ceilings, Report& report);

}  // namespace kvsteward::gpu_bench
