// A sequence in device memory with all that an eviction needs, and its stages one by one: 8 kv heads, 32 query heads,
// 128 dimensions of bf16, a window of 32 rows, a tenth stays. The numbers are those of kernels.h. Thread-compatible;
// owns its memory.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cuda/compact.h"
#include "kernels/cuda/refine.h"
#include "kernels/cuda/score.h"
#include "kernels/cuda/select.h"
#include "tests/gpu/check.h"

namespace kvsteward::gpu_bench {

inline constexpr int32_t kHeads = 8, kGroup = 4, kDim = 128, kRows = 32;
inline constexpr int32_t kSinks = 4, kRecent = 32;
inline constexpr int64_t kKeepOneIn = 10;
inline constexpr int64_t kFloorPpm = 200'000;
inline constexpr size_t kTokenBytes = kDim * 2;

// Which refinements follow the scores.
enum class Policy {
  kAhaKvAda,  // a value prior, not pooled, scaled by its mean
  kSnapKvAda  // averages over 7 neighbours
};

class Sequence {
 public:
  Sequence(int32_t layers, int32_t tokens, cudaStream_t stream);

  int32_t layers() const { return layers_; }
  int32_t tokens() const { return tokens_; }
  // Bytes that compaction of a layer reads, and that it writes again; K and V only. REQUIRES: LayOut().
  double MovedBytes() const;

  // Each stage for layers [first, first + count), behind the one before it on the stream. `at_a_time`: as
  // LaunchScore's. `normaliser`: one is given, a constant one.
  cudaError_t Score(int32_t first, int32_t count, int32_t at_a_time, bool normaliser, cudaStream_t stream);
  cudaError_t Refine(Policy policy, int32_t first, int32_t count, cudaStream_t stream);
  cudaError_t Select(int32_t first, int32_t count, cudaStream_t stream);
  // REQUIRES: LayOut() since the lists became what they are.
  cudaError_t Compact(int32_t first, int32_t count, cudaStream_t stream);

  // What the host does between Select and Compact: reads how much stays of every unit and gives each its blocks.
  void LayOut(cudaStream_t stream);

  // Writes what stays of layer 0, a bit a token, units one after the other in whole words of 64.
  void WriteMask(const std::string& path) const;
  engine::cuda::DevicePool pool() const;
  // [layers, kHeads * kGroup, kRows, kDim]
  std::vector<uint16_t> Queries() const { return queries_.Read(); }
  size_t row_blocks() const { return (static_cast<size_t>(tokens_) + kBlockTokens - 1) / kBlockTokens; }
  // All of K and V.
  const std::byte* data() const { return data_.data(); }
  size_t data_bytes() const { return static_cast<size_t>(layers_) * kHeads * row_blocks() * kBlockBytes; }

 private:
  static constexpr int32_t kBlockTokens = engine::kBlockTokens;
  static constexpr size_t kBlockBytes = 2 * kBlockTokens * kTokenBytes;

  int32_t units() const { return layers_ * kHeads; }
  size_t words() const { return (static_cast<size_t>(tokens_) + 63) / 64; }
  size_t all_blocks() const;
  std::vector<int64_t> Multiples(size_t step) const;
  // The layers' units.
  engine::cuda::DeviceUnits View(int32_t first, int32_t count) const;
  engine::cuda::ScoreArgs Args(int32_t first, int32_t count, bool normaliser) const;

  int32_t layers_, tokens_;
  std::vector<int32_t> host_kept_;  // [units], once laid out
  int32_t most_kept_ = 0;
  int32_t to_stride_ = 0;
  gpu_test::DeviceArray<std::byte> data_;
  gpu_test::DeviceArray<int32_t> positions_;
  gpu_test::DeviceArray<float> norms_;
  gpu_test::DeviceArray<uint32_t> blocks_, to_;
  gpu_test::DeviceArray<int32_t> length_, none_, unit_;
  gpu_test::DeviceArray<int64_t> offset_, mask_offset_, totals_, bad_;
  gpu_test::DeviceArray<uint64_t> refine_bad_, mask_;
  gpu_test::DeviceArray<uint16_t> queries_;
  gpu_test::DeviceArray<int32_t> row_positions_, begin_, end_, kept_, list_;
  gpu_test::DeviceArray<float> scale_, normaliser_, scores_, refined_;
  gpu_test::DeviceArray<std::byte> workspace_;
};

}  // namespace kvsteward::gpu_bench
