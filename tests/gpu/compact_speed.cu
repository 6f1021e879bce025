// How near LaunchCompact comes to the device's own copy: one layer of 8 kv heads, 128 dimensions of two bytes, a random
// tenth stays. Layers take turns, so that none is in the cache when its turn comes. Prints; fails only if a call does.
#include <algorithm>
#include <cstdio>
#include <numeric>
#include <vector>

#include "kernels/cuda/compact.h"
#include "kvsteward/engine/tensor.h"
#include "tests/gpu/check.h"

namespace kvsteward::gpu_test {
namespace {

using engine::kBlockTokens;

constexpr int32_t kLayers = 6, kHeads = 8;
constexpr size_t kTokenBytes = 256, kBlockBytes = 2 * kBlockTokens * kTokenBytes;
constexpr int kBatch = 30;  // launches between two events
constexpr int kBatches = 21;

// Median microseconds of one of the launches that `body` makes, back to back.
template <class Body>
double Median(cudaStream_t stream, const Body& body) {
  cudaEvent_t begin, end;
  CHECK_CUDA(cudaEventCreate(&begin));
  CHECK_CUDA(cudaEventCreate(&end));
  std::vector<double> times;
  for (int b = 0; b <= kBatches; ++b) {
    CHECK_CUDA(cudaEventRecord(begin, stream));
    for (int i = 0; i < kBatch; ++i) CHECK_CUDA(body(i));
    CHECK_CUDA(cudaEventRecord(end, stream));
    CHECK_CUDA(cudaEventSynchronize(end));
    float milliseconds = 0;
    CHECK_CUDA(cudaEventElapsedTime(&milliseconds, begin, end));
    if (b > 0) times.push_back(1000.0 * milliseconds / kBatch);  // the first one warms up
  }
  CHECK_CUDA(cudaEventDestroy(begin));
  CHECK_CUDA(cudaEventDestroy(end));
  std::nth_element(times.begin(), times.begin() + kBatches / 2, times.end());
  return times[kBatches / 2];
}

// Bytes read and written per microsecond by the device's copy.
double CopySpeed(cudaStream_t stream) {
  constexpr size_t kBytes = size_t{512} << 20;
  const DeviceArray<std::byte> from(kBytes), to(kBytes);
  const double us = Median(
      stream, [&](int) { return cudaMemcpyAsync(to.data(), from.data(), kBytes, cudaMemcpyDeviceToDevice, stream); });
  return 2.0 * kBytes / us;
}

void Measure(cudaStream_t stream, int32_t tokens, double copy_speed) {
  constexpr int32_t kUnits = kLayers * kHeads;
  const int32_t row = (tokens + kBlockTokens - 1) / kBlockTokens;
  Random random(static_cast<uint64_t>(tokens));
  std::vector<int32_t> kept(static_cast<size_t>(kUnits) * static_cast<size_t>(tokens)), kept_count(kUnits);
  std::vector<int64_t> begin(kUnits + 1);
  for (int32_t u = 0; u < kUnits; ++u) {
    begin[u + 1] = begin[u] + tokens;
    for (int32_t j = 0; j < tokens; ++j) {
      if (random.Below(10) == 0) kept[static_cast<size_t>(begin[u] + kept_count[u]++)] = j;
    }
  }
  const int32_t most = *std::max_element(kept_count.begin(), kept_count.end());
  const int32_t to_row = (most + kBlockTokens - 1) / kBlockTokens;
  // Blocks of a row lie together, as runs mostly do; rows to move to come behind all of them.
  std::vector<uint32_t> blocks(static_cast<size_t>(kUnits) * row), to(static_cast<size_t>(kUnits) * to_row);
  std::iota(blocks.begin(), blocks.end(), 0u);
  std::iota(to.begin(), to.end(), static_cast<uint32_t>(blocks.size()));
  std::vector<int32_t> unit(kUnits);
  std::iota(unit.begin(), unit.end(), 0);
  const size_t all_blocks = blocks.size() + to.size();

  const DeviceArray<std::byte> data(all_blocks * kBlockBytes);
  const DeviceArray<int32_t> positions(all_blocks * kBlockTokens);
  const DeviceArray<float> norms(all_blocks * kBlockTokens);
  const std::vector<int32_t> full(kUnits, tokens), none(kUnits, 0);
  const DeviceArray<uint32_t> blocks_there(blocks), to_there(to);
  const DeviceArray<int32_t> length(full), stored(none), appended(none), list(kept), count(kept_count), units(unit);
  const DeviceArray<int64_t> offset(begin);
  const engine::cuda::DevicePool pool{data.data(), kBlockBytes, positions.data(), norms.data(), nullptr};
  const engine::cuda::DeviceUnits sequence{
      kUnits, kHeads, tokens, row, blocks_there.data(), length.data(), stored.data(), appended.data(), offset.data()};
  CHECK_CUDA(cudaDeviceSynchronize());
  const double us = Median(stream, [&](int i) {
    const int32_t first = i % kLayers * kHeads;
    const engine::cuda::DeviceWave wave{.count = kHeads,
                                        .most_kept = most,
                                        .unit = units.data() + first,
                                        .kept = list.data(),
                                        .kept_begin = offset.data(),
                                        .kept_count = count.data(),
                                        .normed = length.data(),
                                        .to = to_there.data() + static_cast<size_t>(first) * to_row,
                                        .to_stride = to_row};
    return LaunchCompact(pool, sequence, wave, stream);
  });
  const int64_t moved = std::accumulate(kept_count.begin(), kept_count.end(), int64_t{0}) / kLayers;
  const double floor_us = 2.0 * 2.0 * static_cast<double>(moved) * kTokenBytes / copy_speed;
  std::printf("compact one layer, n = %7d: %8.2f us, floor %8.2f us, ratio %.2f\n", tokens, us, floor_us,
              us / floor_us);
}

}  // namespace
}  // namespace kvsteward::gpu_test

int main() {
  using namespace kvsteward::gpu_test;
  cudaStream_t stream;
  if (!CHECK_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking))) return TestResult();
  const double speed = CopySpeed(stream);
  std::printf("copy of 512 MiB: %.0f GB/s read and written\n", speed / 1000);
  for (const int32_t tokens : {4096, 32768, 131072}) Measure(stream, tokens, speed);
  CHECK_CUDA(cudaStreamDestroy(stream));
  return TestResult();
}
