// Candidates on the device against the host's, exactly.
#include <random>
#include <vector>

#include "kernels/cuda/candidates.h"
#include "kernels/plan/protect.h"
#include "tests/gpu/check.h"
#include "tests/gpu/paged_units.h"

namespace kvsteward::gpu_test {
namespace {

void Test(std::mt19937& random, const std::vector<int32_t>& lengths, int32_t sinks, int32_t recent) {
  const HostUnits host = DrawUnits(random, lengths);
  const PagedUnits paged(random, host);
  const DeviceArray<int32_t> begin(std::vector<int32_t>(host.count(), -7)), end(std::vector<int32_t>(host.count(), -7));
  CHECK_CUDA(
      engine::cuda::LaunchCandidates(paged.pool(), paged.units(), sinks, recent, {begin.data(), end.data()}, nullptr));
  CHECK_CUDA(cudaDeviceSynchronize());
  const std::vector<int32_t> begins = begin.Read(), ends = end.Read();

  std::vector<int32_t> positions = paged.positions();
  const engine::PoolView pool = {.positions = positions.data()};
  const engine::Protect protect = {.sinks = sinks, .recent = recent};
  for (size_t u = 0; u < host.count(); ++u) {
    std::vector<Run> row;
    for (int32_t b = 0; b < paged.stride(); ++b) {
      row.push_back({paged.blocks()[u * static_cast<size_t>(paged.stride()) + static_cast<size_t>(b)], 1});
    }
    const engine::UnitView unit = {
        .row = row, .length = host.length[u], .stored = host.stored[u], .appended_position = host.appended[u]};
    const engine::CandidateSet expected = engine::Candidates(unit, pool, {}, protect, 0);
    if (!CHECK(begins[u] == expected.begin && ends[u] == expected.end)) {
      std::printf("  length %d, stored %d, sinks %d, recent %d: [%d, %d), not [%d, %d)\n", host.length[u],
                  host.stored[u], sinks, recent, begins[u], ends[u], expected.begin, expected.end);
    }
  }
}

}  // namespace
}  // namespace kvsteward::gpu_test

int main() {
  std::mt19937 random(1);
  const std::vector<int32_t> sizes = {0, 1, 2, 15, 16, 17, 33, 100, 1000, 4097};
  for (const int32_t sinks : {0, 1, 4, 16, 17, 100, 5000, 0x7fffffff}) {
    for (const int32_t recent : {0, 1, 3, 32, 100, 1 << 30}) {
      std::vector<int32_t> lengths;
      for (int i = 0; i < 40; ++i) lengths.push_back(sizes[random() % sizes.size()]);
      kvsteward::gpu_test::Test(random, lengths, sinks, recent);
    }
  }
  kvsteward::gpu_test::Test(random, {}, 4, 32);
  return kvsteward::gpu_test::TestResult();
}
