// Stages 7 and 8 on the device, for all layers of a sequence at once: from scores to the tokens that stay. From the
// same scores the plan is the host's, bit for bit (plan/select.h), for the head budgets that are here and the selection
// top_k. Integers only. Nothing here owns memory.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/views.h"

namespace kvsteward::engine::cuda {

// How many candidates each unit keeps. Every pointer is device memory.
struct SelectRule {
  enum class Kind {
    kUniform,   // as many as the layer's others, as far as it has them
    kAdaFloor,  // at least floor(alpha c), the rest jointly
    kAdaBlend,  // (1 - alpha) of how many are among the layer's best, and alpha c
    kGiven,     // what `shares` says
  };
  Kind kind = Kind::kUniform;
  int64_t alpha_ppm = 0;            // kAdaFloor, kAdaBlend: at most 1e6
  const int64_t* totals = nullptr;  // [layers] candidates that stay, as far as there are so many; not for kGiven
  const int64_t* shares = nullptr;  // [units] kGiven: likewise
};

// What stays, protected tokens included. Every pointer is device memory.
struct Selected {
  int32_t* kept = nullptr;               // [units] residents
  uint64_t* mask = nullptr;              // bit j % 64 of word mask_offset[u] + j / 64: resident j of unit u stays
  const int64_t* mask_offset = nullptr;  // [units]
  // The residents that stay, ascending, unit after unit, or null: those of a layer from list_offset[layer] on; what
  // goes beyond the next one is not written.
  int32_t* list = nullptr;
  const int64_t* list_offset = nullptr;  // [layers + 1]
};

size_t SelectWorkspaceBytes(const DeviceUnits& units);

// The search begins by counting the values of the scores' first digit, bits [20, 31). Whoever writes the scores may do
// that on the way: ClearCounts, then candidates' scores counted in FirstCounts, [units][1 << kFirstDigitBits].
inline constexpr int kFirstDigitBits = 11;
enum class FirstDigit { kToCount, kCounted };
uint32_t* FirstCounts(const DeviceUnits& units, void* workspace);
cudaError_t ClearCounts(const DeviceUnits& units, void* workspace, cudaStream_t stream);

// `scores`: of every resident, as refined: at least +0 and no NaN, or negative, which marks a protected token. Units
// compete within a layer of units.kv_heads; with kv_heads = units over the whole sequence (`global`). Of `units` only
// sizes and offsets are read. REQUIRES: `workspace` is aligned to 256 bytes.
cudaError_t LaunchSelect(const DeviceUnits& units, const SelectRule& rule, const float* scores, const Selected& out,
                         void* workspace, cudaStream_t stream, FirstDigit first_digit = FirstDigit::kToCount);

}  // namespace kvsteward::engine::cuda
