#include "tests/gpu/bench/sequence.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <numeric>

#include "kernels/cuda/bad_token.h"
#include "kernels/cuda/candidates.h"
#include "kernels/cuda/norms.h"
#include "tests/gpu/bench/kernels.h"

namespace kvsteward::gpu_bench {
namespace {

constexpr uint32_t kCacheSeed = 1, kQuerySeed = 2;  // as in torch_side.py
constexpr double kLog2E = 1.4426950408889634;
constexpr float kNormaliser = 10;  // whatever it is, the work is the same

template <class T>
std::vector<T> Ascending(size_t count) {
  std::vector<T> values(count);
  std::iota(values.begin(), values.end(), T{0});
  return values;
}

std::vector<int32_t> RowPositions(int32_t tokens) {
  std::vector<int32_t> positions;
  for (int32_t i = 0; i < kRows; ++i) positions.push_back(tokens - kRows + i);
  return positions;
}

}  // namespace

size_t Sequence::all_blocks() const {
  const size_t stays = static_cast<size_t>(tokens_ / kKeepOneIn * kHeads) / kBlockTokens + 2 * kHeads;
  return static_cast<size_t>(units()) * row_blocks() + static_cast<size_t>(layers_) * stays;
}

std::vector<int64_t> Sequence::Multiples(size_t step) const {
  std::vector<int64_t> values;
  for (int32_t u = 0; u <= units(); ++u) values.push_back(int64_t{u} * static_cast<int64_t>(step));
  return values;
}

Sequence::Sequence(int32_t layers, int32_t tokens, cudaStream_t stream)
    : layers_(layers),
      tokens_(tokens),
      data_(all_blocks() * kBlockBytes),
      positions_(all_blocks() * kBlockTokens),
      norms_(all_blocks() * kBlockTokens),
      blocks_(Ascending<uint32_t>(static_cast<size_t>(units()) * row_blocks())),
      to_(static_cast<size_t>(units()) * row_blocks()),
      length_(std::vector<int32_t>(static_cast<size_t>(units()), tokens)),
      none_(std::vector<int32_t>(static_cast<size_t>(units()), 0)),
      unit_(Ascending<int32_t>(static_cast<size_t>(units()))),
      offset_(Multiples(static_cast<size_t>(tokens))),
      mask_offset_(Multiples(words())),
      totals_(std::vector<int64_t>(static_cast<size_t>(layers),
                                   int64_t{kHeads} * (tokens / kKeepOneIn - kSinks - kRecent))),
      bad_(static_cast<size_t>(units())),
      refine_bad_(static_cast<size_t>(units())),
      mask_(static_cast<size_t>(units()) * words()),
      queries_(static_cast<size_t>(layers) * kHeads * kGroup * kRows * kDim),
      row_positions_(RowPositions(tokens)),
      begin_(static_cast<size_t>(units())),
      end_(static_cast<size_t>(units())),
      kept_(static_cast<size_t>(units())),
      list_(static_cast<size_t>(units()) * static_cast<size_t>(tokens)),
      scale_(std::vector<float>(kRows, static_cast<float>(kLog2E / std::sqrt(double{kDim})))),
      normaliser_(std::vector<float>(static_cast<size_t>(units()) * kGroup * kRows, kNormaliser)),
      scores_(static_cast<size_t>(units()) * static_cast<size_t>(tokens)),
      refined_(static_cast<size_t>(units()) * static_cast<size_t>(tokens)),
      workspace_(std::max({ScoreWorkspaceBytes(Args(0, layers, false), 0), SelectWorkspaceBytes(View(0, layers)),
                           engine::cuda::RefineWorkspaceBytes(View(0, layers))})) {
  CHECK_CUDA(cudaDeviceSynchronize());
  auto* numbers = reinterpret_cast<uint16_t*>(data_.data());
  CHECK_CUDA(LaunchCacheNumbers(kCacheSeed, units(), tokens, kDim, numbers, stream));
  CHECK_CUDA(LaunchNumbers(kQuerySeed, 0, queries_.size(), queries_.data(), stream));
  CHECK_CUDA(engine::cuda::ResetBadTokens(bad_.data(), units(), stream));
  CHECK_CUDA(LaunchNorms(pool(), View(0, layers), kDim, engine::DType::kBF16, true, none_.data(), bad_.data(), stream));
  CHECK_CUDA(cudaStreamSynchronize(stream));
}

engine::cuda::DeviceUnits Sequence::View(int32_t first, int32_t count) const {
  const int64_t skip = int64_t{first} * kHeads;
  return {.units = count * kHeads,
          .kv_heads = kHeads,
          .longest = tokens_,
          .block_stride = static_cast<int32_t>(row_blocks()),
          .blocks = blocks_.data() + skip * static_cast<int64_t>(row_blocks()),
          .length = length_.data() + skip,
          .stored = none_.data() + skip,
          .appended_position = none_.data() + skip,
          .offset = offset_.data() + skip};
}

engine::cuda::DevicePool Sequence::pool() const {
  return {data_.data(), kBlockBytes, positions_.data(), norms_.data(), nullptr};
}

engine::cuda::ScoreArgs Sequence::Args(int32_t first, int32_t count, bool normaliser) const {
  const int64_t rows = int64_t{first} * kHeads * kGroup * kRows;
  engine::cuda::ScoreArgs args;
  args.pool = pool();
  args.units = View(first, count);
  args.head_dim = kDim;
  args.group = kGroup;
  args.queries = reinterpret_cast<const std::byte*>(queries_.data() + rows * kDim);
  args.window_rows = kRows;
  args.rows = kRows;
  args.positions = row_positions_.data();
  args.scale = scale_.data();
  args.log_normaliser = normaliser ? normaliser_.data() + rows : nullptr;
  args.mean_rows = true;
  args.mean_heads = true;
  args.scores = scores_.data();
  args.bad = bad_.data() + int64_t{first} * kHeads;
  return args;
}

cudaError_t Sequence::Score(int32_t first, int32_t count, int32_t at_a_time, bool normaliser, cudaStream_t stream) {
  return LaunchScore(Args(first, count, normaliser), at_a_time, workspace_.data(), stream);
}

cudaError_t Sequence::Refine(Policy policy, int32_t first, int32_t count, cudaStream_t stream) {
  using engine::cuda::RefineStep;
  const int32_t skip = first * kHeads;
  const engine::cuda::DeviceUnits units = View(first, count);
  const engine::cuda::DeviceCandidates candidates = {begin_.data() + skip, end_.data() + skip};
  if (const cudaError_t error = LaunchCandidates(pool(), units, kSinks, kRecent, candidates, stream);
      error != cudaSuccess) {
    return error;
  }
  const RefineStep step = policy == Policy::kAhaKvAda
                              ? RefineStep{.kind = RefineStep::Kind::kValuePrior, .scale = RefineStep::Scale::kMean}
                              : RefineStep{.kind = RefineStep::Kind::kAvgPool, .pool = 7, .padded = true};
  return LaunchRefine(pool(), units, candidates, &step, 1, scores_.data(), refined_.data(), refine_bad_.data() + skip,
                      workspace_.data(), stream);
}

cudaError_t Sequence::Select(int32_t first, int32_t count, cudaStream_t stream) {
  const int32_t skip = first * kHeads;
  const engine::cuda::SelectRule rule = {
      .kind = engine::cuda::SelectRule::Kind::kAdaFloor, .alpha_ppm = kFloorPpm, .totals = totals_.data() + first};
  const engine::cuda::Selected out = {.kept = kept_.data() + skip,
                                      .mask = mask_.data(),
                                      .mask_offset = mask_offset_.data() + skip,
                                      .list = list_.data(),
                                      .list_offset = offset_.data() + skip};
  return LaunchSelect(View(first, count), rule, refined_.data(), out, workspace_.data(), stream);
}

void Sequence::LayOut(cudaStream_t stream) {
  CHECK_CUDA(cudaStreamSynchronize(stream));
  host_kept_ = kept_.Read();
  most_kept_ = *std::max_element(host_kept_.begin(), host_kept_.end());
  to_stride_ = (most_kept_ + kBlockTokens - 1) / kBlockTokens;
  std::vector<uint32_t> to(static_cast<size_t>(units()) * static_cast<size_t>(to_stride_));
  auto next = static_cast<uint32_t>(blocks_.size());
  for (size_t u = 0; u < host_kept_.size(); ++u) {
    const size_t row = u * static_cast<size_t>(to_stride_);
    for (size_t i = 0; i * kBlockTokens < static_cast<size_t>(host_kept_[u]); ++i) to[row + i] = next++;
  }
  if (CHECK(next <= all_blocks())) to_.Write(to);
}

double Sequence::MovedBytes() const {
  const int64_t kept = std::accumulate(host_kept_.begin(), host_kept_.end(), int64_t{0});
  return 2.0 * kTokenBytes * static_cast<double>(kept) / layers_;
}

cudaError_t Sequence::Compact(int32_t first, int32_t count, cudaStream_t stream) {
  const int32_t skip = first * kHeads;
  const engine::cuda::DeviceWave wave = {.count = count * kHeads,
                                         .most_kept = most_kept_,
                                         .unit = unit_.data() + skip,
                                         .kept = list_.data(),
                                         .kept_begin = offset_.data(),
                                         .kept_count = kept_.data(),
                                         .normed = length_.data(),
                                         .to = to_.data() + int64_t{skip} * to_stride_,
                                         .to_stride = to_stride_};
  return LaunchCompact(pool(), View(0, layers_), wave, stream);
}

void Sequence::WriteMask(const std::string& path) const {
  const std::vector<uint64_t> mask = mask_.Read();
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(mask.data()),
             static_cast<std::streamsize>(kHeads * words() * sizeof(uint64_t)));
  CHECK(file.good());
}

}  // namespace kvsteward::gpu_bench
