// LaunchNorms and LaunchExpandRows against naive host loops: what is asked for is written, nothing else.
#include "kernels/cuda/norms.h"

#include <cmath>
#include <limits>

#include "kernels/cuda/bad_token.h"
#include "kernels/cuda/rows.h"
#include "tests/gpu/paged_model.h"

namespace kvsteward::gpu_test {
namespace {

using engine::cuda::kNoBadToken;
using engine::cuda::LaunchExpandRows;
using engine::cuda::LaunchNorms;
using engine::cuda::ResetBadTokens;

constexpr float kUnwritten = -7.0f;

// More units than one grid takes, few of which hold tokens: the first, the last, and those around the limit.
std::vector<int32_t> ManyUnits() {
  std::vector<int32_t> lengths(engine::cuda::kMostGridUnits + 5, 0);
  lengths.front() = 20;
  lengths.back() = 35;
  lengths[engine::cuda::kMostGridUnits - 1] = 17;
  lengths[engine::cuda::kMostGridUnits] = 18;
  return lengths;
}

void Norms(Random& random, DType dtype, int32_t dim, bool squares, bool bad_values,
           const std::vector<int32_t>& lengths = {0, 1, 15, 16, 17, 300, 1031, 64}) {
  PagedModel model(random, lengths, lengths.size() % 4 == 0 ? 4 : 1, dim, dtype, 0.5f, 2);
  std::vector<int32_t> normed;
  std::vector<int64_t> first_bad(static_cast<size_t>(model.units()), kNoBadToken);
  for (size_t unit = 0; unit < model.length.size(); ++unit) {
    const int32_t n = model.length[unit];
    normed.push_back(unit % 2 == 0 ? 0 : static_cast<int32_t>(random.Below(static_cast<uint64_t>(n) + 1)));
    for (int32_t j = 0; j < n; ++j) {
      const float size = j % 7 == 0 ? 1e-4f : 3.0f;
      for (int32_t i = 0; i < dim; ++i) {
        StoreNumber(dtype, model.Value(unit, j), static_cast<size_t>(i), size * (random.Uniform() - 0.4f));
        StoreNumber(dtype, model.Key(unit, j), static_cast<size_t>(i), std::nanf(""));  // not to be read
      }
    }
    if (!bad_values) continue;
    for (int repeat = 0; repeat < 3 && n > 0; ++repeat) {
      const auto j = static_cast<int32_t>(random.Below(static_cast<uint64_t>(n)));
      const float value = repeat == 1 ? std::nanf("") : -std::numeric_limits<float>::infinity();
      StoreNumber(dtype, model.Value(unit, j), random.Below(static_cast<uint64_t>(dim)), value);
      if (j >= normed[unit]) first_bad[unit] = std::min<int64_t>(first_bad[unit], j);
    }
  }
  const PagedOnDevice device(model);
  const DeviceArray<int32_t> normed_on_device(normed);
  const DeviceArray<int64_t> bad(normed.size());
  CHECK_CUDA(ResetBadTokens(bad.data(), model.units(), nullptr));
  CHECK_CUDA(LaunchNorms(device.pool, device.units, dim, dtype, squares, normed_on_device.data(), bad.data(), nullptr));
  CHECK_CUDA(cudaDeviceSynchronize());
  CHECK(bad.Read() == first_bad);
  std::vector<float> norms = device.norms.Read();
  for (size_t unit = 0; unit < model.length.size(); ++unit) {
    for (int32_t j = normed[unit]; j < model.length[unit]; ++j) {
      double expected = 0;
      for (int32_t i = 0; i < dim; ++i) {
        const double v = LoadNumber(dtype, model.Value(unit, j), static_cast<size_t>(i));
        expected += squares ? v * v : std::fabs(v);
      }
      float& norm = norms[model.Slot(unit, j)];
      CHECK(std::isfinite(expected) ? std::fabs(norm - expected) <= 1e-5 * expected : !std::isfinite(norm));
      norm = kUnwritten;
    }
  }
  bool untouched = true;
  for (const float norm : norms) untouched = untouched && norm == kUnwritten;
  CHECK(untouched);
}

void Rows(Random& random, std::vector<int32_t> lengths, uint32_t longest_run) {
  std::vector<Run> runs;
  std::vector<int64_t> offsets = {0};
  int32_t stride = 1;
  for (const int32_t n : lengths) stride = std::max(stride, (n + kBlockTokens - 1) / kBlockTokens);
  const auto unwritten = uint32_t{0xabababab};
  std::vector<uint32_t> expected(lengths.size() * static_cast<size_t>(stride), unwritten);
  for (size_t unit = 0; unit < lengths.size(); ++unit) {
    const auto needed = static_cast<uint32_t>((lengths[unit] + kBlockTokens - 1) / kBlockTokens);
    const uint32_t more = static_cast<uint32_t>(random.Below(3));  // blocks that hold no resident
    for (uint32_t done = 0; done < needed + more;) {
      const Run run{static_cast<uint32_t>(random.Below(1u << 30)),
                    static_cast<uint32_t>(random.Below(longest_run + 1))};
      runs.push_back(run);
      for (uint32_t i = 0; i < run.count && done + i < needed; ++i) {
        expected[unit * static_cast<size_t>(stride) + done + i] = run.first + i;
      }
      done += run.count;
    }
    offsets.push_back(static_cast<int64_t>(runs.size()));
  }
  const DeviceArray<Run> runs_on_device(runs);
  const DeviceArray<int64_t> offsets_on_device(offsets);
  const DeviceArray<int32_t> length(lengths);
  const DeviceArray<uint32_t> blocks(std::vector<uint32_t>(expected.size(), unwritten));
  engine::cuda::DeviceUnits units;
  units.units = static_cast<int32_t>(lengths.size());
  units.block_stride = stride;
  units.longest = *std::max_element(lengths.begin(), lengths.end());
  units.length = length.data();
  CHECK_CUDA(LaunchExpandRows(runs_on_device.data(), offsets_on_device.data(), units, blocks.data(), nullptr));
  CHECK_CUDA(cudaDeviceSynchronize());
  CHECK(blocks.Read() == expected);
}

void RunAll() {
  Random random(11);
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    for (const int32_t dim : {128, 64, 8, 80, 1, 7, 100, 256, 576}) {
      for (const bool squares : {true, false}) {
        Norms(random, dtype, dim, squares, false);
        Norms(random, dtype, dim, squares, true);
      }
    }
  }
  Norms(random, DType::kBF16, 8, true, true, ManyUnits());
  Rows(random, ManyUnits(), 2);
  Rows(random, {0, 1, 16, 17, 100}, 1);
  Rows(random, {0}, 4);
  if (Small()) return;
  Rows(random, {40000, 5, 39999, 0, 16}, 3);
  Rows(random, {1'000'000, 999'999, 1}, 200);
  Rows(random, {1'000'000, 70'000}, 1u << 20);
}

}  // namespace
}  // namespace kvsteward::gpu_test

int main() {
  kvsteward::gpu_test::RunAll();
  return kvsteward::gpu_test::TestResult();
}
