#include "tests/bench/fma_peak.h"

#include <cstddef>
#include <numeric>
#include <thread>
#include <vector>

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL)  // as in kernels/cpu/tiles.cc
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/bench/fma_peak.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace kvsteward::bench::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

// `rounds` times 12 independent multiply-adds; returns their flops. `sink` keeps them alive.
double MultiplyAdd(size_t rounds, float* sink) {
  const hn::CappedTag<float, 16> d;
  hn::Vec<decltype(d)> sums[12];
  for (auto& sum : sums) sum = hn::Set(d, *sink);
  const auto factor = hn::Set(d, 0.999f);
  const auto term = hn::Set(d, 0.001f);
  for (size_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (auto& sum : sums) sum = hn::MulAdd(sum, factor, term);
  }
  for (const auto& sum : sums) *sink += hn::GetLane(sum);
  return 2.0 * 12.0 * static_cast<double>(rounds) * static_cast<double>(hn::Lanes(d));
}

}  // namespace
}  // namespace kvsteward::bench::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvsteward::bench {

HWY_EXPORT(MultiplyAdd);

double MultiplyAdds(int threads) {
  constexpr size_t kRounds = 4'000'000;
  std::vector<double> flops(static_cast<size_t>(threads));
  std::vector<float> sinks(flops.size() * 16, 1.0f);  // a cache line each
  std::vector<std::thread> pool;
  for (size_t i = 0; i < flops.size(); ++i) {
    pool.emplace_back([&, i] { flops[i] = HWY_DYNAMIC_DISPATCH(MultiplyAdd)(kRounds, &sinks[i * 16]); });
  }
  for (std::thread& thread : pool) thread.join();
  return std::accumulate(flops.begin(), flops.end(), 0.0);
}

}  // namespace kvsteward::bench
#endif
