// What it costs to decode over heads of different lengths, against heads of one length with as many tokens in all: the
// worker's own paged attention, one new token a sequence, one layer.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "client/worker/cuda/paged_attention.h"
#include "tests/gpu/bench/kernels.h"
#include "tests/gpu/bench/sections.h"
#include "tests/gpu/bench/sequence.h"
#include "tests/gpu/check.h"

namespace kvsteward::gpu_bench {
namespace {

constexpr int32_t kSequences = 32;
constexpr int32_t kMeanTokens = 3276;  // a tenth of 32k
constexpr int32_t kStride = 2048;      // blocks: enough for a head that has all of its sequence's tokens

using engine::kBlockTokens;

// [sequences * kHeads] lengths: a fifth of the mean for every head, the rest at random, in all as many as the uniform
// ones.
std::vector<int32_t> Ragged(gpu_test::Random& random) {
  std::vector<int32_t> lengths;
  for (int32_t sequence = 0; sequence < kSequences; ++sequence) {
    double weights[kHeads];
    for (double& weight : weights) weight = -std::log(1.0 - double{random.Uniform()});
    const double sum = std::accumulate(std::begin(weights), std::end(weights), 0.0);
    const int32_t floor = kMeanTokens / 5, rest = kHeads * (kMeanTokens - floor);
    int32_t given = 0;
    for (int32_t head = 0; head < kHeads; ++head) {
      const auto share = static_cast<int32_t>(rest * weights[head] / sum);
      lengths.push_back(floor + (head + 1 < kHeads ? share : rest - given));
      given += share;
    }
  }
  return lengths;
}

class Cache {
 public:
  explicit Cache(const std::vector<int32_t>& lengths)
      : lengths_(lengths),
        data_(kSequences * (kHeads * size_t{kMeanTokens} / kBlockTokens + kHeads) * kBlockBytes),
        length_(lengths),
        blocks_(Blocks(lengths)),
        queries_(lengths.size() * kGroup * kDim),
        out_(lengths.size() * kGroup * kDim),
        workspace_(PagedAttentionWorkspace(Args(0, kSequences))) {
    CHECK_CUDA(LaunchNumbers(4, 0, data_.size() / 2, reinterpret_cast<uint16_t*>(data_.data()), nullptr));
    CHECK_CUDA(cudaMemset(queries_.data(), 0x3d, queries_.size() * sizeof(float)));  // about 0.046 each
    CHECK_CUDA(cudaDeviceSynchronize());
  }

  cudaError_t Attend(int32_t first, int32_t count, cudaStream_t stream) {
    return LaunchPagedAttention(Args(first, count), stream);
  }

 private:
  static constexpr size_t kBlockBytes = 2 * kBlockTokens * kTokenBytes;

  static std::vector<uint32_t> Blocks(const std::vector<int32_t>& lengths) {
    std::vector<uint32_t> blocks(lengths.size() * kStride);
    uint32_t next = 0;
    for (size_t row = 0; row < lengths.size(); ++row) {
      for (int32_t i = 0; i * kBlockTokens < lengths[row]; ++i) blocks[row * kStride + static_cast<size_t>(i)] = next++;
    }
    return blocks;
  }

  worker::cuda::PagedAttentionArgs Args(int32_t first, int32_t count) const {
    const auto row = static_cast<size_t>(first * kHeads);
    const size_t skip = row * kGroup * kDim;
    const auto begin = lengths_.begin() + static_cast<ptrdiff_t>(row);
    return {.cache = {.data = data_.data(),
                      .block_bytes = kBlockBytes,
                      .dtype = engine::DType::kBF16,
                      .head_dim = kDim,
                      .rows = count * kHeads,
                      .blocks = blocks_.data() + row * kStride,
                      .block_stride = kStride,
                      .length = length_.data() + row},
            .longest = *std::max_element(begin, begin + count * kHeads),
            .tokens = 1,
            .group = kGroup,
            .queries = queries_.data() + skip,
            .query_stride = 0,
            .out = out_.data() + skip,
            .out_stride = 0,
            .workspace = reinterpret_cast<float*>(workspace_.data())};
  }

  std::vector<int32_t> lengths_;
  gpu_test::DeviceArray<std::byte> data_;
  gpu_test::DeviceArray<int32_t> length_;
  gpu_test::DeviceArray<uint32_t> blocks_;
  gpu_test::DeviceArray<float> queries_, out_;
  gpu_test::DeviceArray<std::byte> workspace_;
};

}  // namespace

void MeasureAttention(Timer& timer, const Ceilings& ceilings, Report& report) {
  gpu_test::Random random(5);
  Cache uniform(std::vector<int32_t>(size_t{kSequences} * kHeads, kMeanTokens));
  Cache ragged(Ragged(random));
  for (const int32_t count : {1, 8, kSequences}) {
    const int variants = kSequences / count;
    const auto time = [&](Cache& cache) {
      return timer.Time(How::kGraph, variants, [&](int i) { return cache.Attend(i * count, count, timer.stream()); });
    };
    const std::string of = std::to_string(count) + (count == 1 ? " sequence" : " sequences");
    const Reading even = time(uniform);
    const double bytes = 2.0 * kTokenBytes * kHeads * kMeanTokens * count;
    report.Add({.name = "decode attention, uniform heads, " + of,
                .unit = "us",
                .reading = even,
                .floor = bytes / ceilings.copy});
    report.Add({.name = "decode attention, ragged heads / uniform, " + of,
                .unit = "us",
                .reading = time(ragged),
                .floor = even.median});
  }
}

}  // namespace kvsteward::gpu_bench
