#include <algorithm>

#include "tests/gpu/bench/kernels.h"
#include "tests/gpu/bench/sections.h"
#include "tests/gpu/check.h"

namespace kvsteward::gpu_bench {
namespace {

constexpr size_t kBytes = size_t{1} << 30;
constexpr size_t kCachedBytes = size_t{16} << 20;
constexpr int kCachedTimes = 32;

// From microseconds for `amount` to amount per microsecond; the tenth that was slowest stays the lowest.
Reading Rate(const Reading& us, double amount) { return {amount / us.median, amount / us.p90, amount / us.p10}; }

Reading Scaled(const Reading& reading, double by) { return {reading.median * by, reading.p10 * by, reading.p90 * by}; }

}  // namespace

Ceilings MeasureCeilings(Timer& timer, double matmul_tflops, Report& report) {
  Ceilings ceilings;
  const cudaStream_t stream = timer.stream();
  const gpu_test::DeviceArray<std::byte> from(kBytes), to(kBytes);
  const gpu_test::DeviceArray<uint32_t> sink(1);
  CHECK_CUDA(LaunchNumbers(3, 0, kBytes / 2, reinterpret_cast<uint16_t*>(from.data()), stream));

  const auto add = [&](const char* name, const Reading& per_us, double by, const char* unit) {
    report.Add({.name = name, .unit = unit, .reading = Scaled(per_us, by)});
    return per_us.median;
  };
  const double driver = add(
      "ceiling: copy by the driver, read and written",
      Rate(timer.Time(
               How::kStream, 1,
               [&](int) { return cudaMemcpyAsync(to.data(), from.data(), kBytes, cudaMemcpyDeviceToDevice, stream); }),
           2.0 * kBytes),
      1e-3, "GB/s");
  const double kernel =
      add("ceiling: copy by a kernel, read and written",
          Rate(timer.Time(How::kStream, 1, [&](int) { return LaunchCopy(from.data(), to.data(), kBytes, stream); }),
               2.0 * kBytes),
          1e-3, "GB/s");
  ceilings.copy = std::max(driver, kernel);
  add("ceiling: read",
      Rate(timer.Time(How::kStream, 1, [&](int) { return LaunchRead(from.data(), kBytes, 1, sink.data(), stream); }),
           1.0 * kBytes),
      1e-3, "GB/s");
  add("ceiling: read out of L2, 16 MiB",
      Rate(timer.Time(How::kStream, 1,
                      [&](int) { return LaunchRead(from.data(), kCachedBytes, kCachedTimes, sink.data(), stream); }),
           1.0 * kCachedBytes * kCachedTimes),
      1e-3, "GB/s");
  int processors = 0;
  CHECK_CUDA(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, 0));
  const MmaLoop loop = {.blocks = 2 * processors, .iterations = 4096};
  ceilings.mma =
      add("ceiling: bf16 by mma.sync",
          Rate(timer.Time(How::kStream, 1, [&](int) { return LaunchMma(loop, sink.data(), stream); }), loop.flops()),
          1e-6, "TFLOP/s");
  if (matmul_tflops > 0) {
    const Reading given = {matmul_tflops, matmul_tflops, matmul_tflops};
    report.Add({.name = "ceiling: bf16 matrices by a library", .unit = "TFLOP/s", .reading = given});
    ceilings.mma = std::max(ceilings.mma, matmul_tflops * 1e6);
  }
  return ceilings;
}

}  // namespace kvsteward::gpu_bench
