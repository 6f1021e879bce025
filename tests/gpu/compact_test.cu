// LaunchCompact and LaunchPublish against a naive host loop, byte for byte over the whole pool and the whole table:
// what is to move has moved, and nothing else has changed.
#include <algorithm>
#include <cstring>
#include <iterator>
#include <string>
#include <vector>

#include "client/include/kvsteward/shm.h"
#include "kernels/cuda/compact.h"
#include "kernels/cuda/publish.h"
#include "tests/gpu/check.h"
#include "tests/gpu/compact_model.h"

namespace kvsteward::gpu_test {
namespace {

using engine::cuda::DevicePool;
using engine::cuda::DeviceTable;
using engine::cuda::DeviceUnits;
using engine::cuda::DeviceWave;

template <class T>
bool SameBytes(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

void Publish(Random& random, const Sequence& s, const DeviceWave& wave, cudaStream_t stream) {
  const auto units = static_cast<uint32_t>(s.length.size());
  const uint32_t row_capacity = BlocksOf(s.longest) + 1;
  const uint64_t bytes = kvs_table_bytes(units, row_capacity);
  std::byte* mapped = nullptr;
  if (!CHECK_CUDA(cudaHostAlloc(reinterpret_cast<void**>(&mapped), bytes, cudaHostAllocMapped))) return;
  std::vector<std::byte> expected(bytes);
  Fill(random, expected);
  std::memcpy(mapped, expected.data(), bytes);
  std::byte* on_device = nullptr;
  CHECK_CUDA(cudaHostGetDevicePointer(reinterpret_cast<void**>(&on_device), mapped, 0));
  const DeviceTable table{on_device, units, row_capacity};
  for (int32_t base : {77, 2'000'000'000}) {  // twice: both slots of every unit that moves
    CHECK_CUDA(LaunchPublish(table, wave, base, stream));
    CHECK_CUDA(cudaStreamSynchronize(stream));
    PublishOnHost(s, expected.data(), row_capacity, base);
    CHECK(std::memcmp(mapped, expected.data(), bytes) == 0);
  }
  CHECK_CUDA(cudaFreeHost(mapped));
}

void Run(uint64_t seed, const Case& c) {
  Random random(seed);
  const Sequence s = MakeSequence(random, c);
  Pool pool{c.token_bytes, {}, {}, {}, {}};
  const size_t block_bytes = 2 * kBlockTokens * c.token_bytes;
  pool.data.resize(s.pool_blocks * block_bytes);
  pool.positions.resize(size_t{s.pool_blocks} * kBlockTokens);
  pool.norms.resize(pool.positions.size());
  pool.running.resize(pool.positions.size());
  Fill(random, pool.data);
  Fill(random, pool.positions);
  Fill(random, pool.norms);
  Fill(random, pool.running);

  std::vector<std::byte> raw(c.misalign + pool.data.size());
  std::copy(pool.data.begin(), pool.data.end(), raw.begin() + static_cast<ptrdiff_t>(c.misalign));
  const DeviceArray<std::byte> data(raw);
  const DeviceArray<int32_t> positions(pool.positions);
  const DeviceArray<uint32_t> norms(pool.norms), running(pool.running), blocks(s.blocks), to(s.to);
  const DeviceArray<int32_t> length(s.length), stored(s.stored), appended(s.appended), normed(s.normed),
      scored(s.scored), unit(s.wave), kept(s.kept), kept_count(s.kept_count);
  const DeviceArray<int64_t> offset(s.offset);
  const DevicePool on_device{data.data() + c.misalign, block_bytes, positions.data(),
                             c.sides ? reinterpret_cast<float*>(norms.data()) : nullptr,
                             c.sides ? reinterpret_cast<float*>(running.data()) : nullptr};
  const auto units = static_cast<int32_t>(s.length.size());
  const DeviceUnits sequence{units,         units,         s.longest,       s.block_stride, blocks.data(),
                             length.data(), stored.data(), appended.data(), offset.data()};
  const bool all = s.wave.size() == s.length.size();
  const DeviceWave wave{.count = static_cast<int32_t>(s.wave.size()),
                        .most_kept = s.most_kept,
                        .unit = all ? nullptr : unit.data(),
                        .kept = kept.data(),
                        .kept_begin = offset.data(),
                        .kept_count = kept_count.data(),
                        .normed = c.sides ? normed.data() : nullptr,
                        .scored = c.sides ? scored.data() : nullptr,
                        .to = to.data(),
                        .to_stride = s.to_stride};
  cudaStream_t stream;
  CHECK_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  CHECK_CUDA(cudaDeviceSynchronize());  // what was copied in is there
  const int before = failures;
  CHECK_CUDA(LaunchCompact(on_device, sequence, wave, stream));
  CHECK_CUDA(cudaStreamSynchronize(stream));
  CompactOnHost(s, pool);
  std::copy(pool.data.begin(), pool.data.end(), raw.begin() + static_cast<ptrdiff_t>(c.misalign));
  CHECK(SameBytes(data.Read(), raw));
  CHECK(SameBytes(positions.Read(), pool.positions));
  CHECK(SameBytes(norms.Read(), pool.norms));
  CHECK(SameBytes(running.Read(), pool.running));
  Publish(random, s, wave, stream);
  CHECK_CUDA(cudaStreamDestroy(stream));
  if (failures != before) std::printf("  in case %s\n", c.name.c_str());
}

std::vector<Unit> UnitsOf(std::initializer_list<int32_t> lengths, Keep keep) {
  std::vector<Unit> units;
  for (const int32_t length : lengths) units.push_back({length, keep});
  return units;
}

void RunShapes() {
  constexpr int32_t kMany = kEmulated ? 100'000 : 1'000'000;
  uint64_t seed = 1;
  for (const size_t token_bytes : {2, 6, 8, 12, 16, 20, 48, 64, 160, 192, 256, 512, 528, 1024, 1026}) {
    const std::string bytes = std::to_string(token_bytes) + " bytes a token";
    for (const Keep keep :
         {Keep::kNone, Keep::kFirst, Keep::kLast, Keep::kAll, Keep::kTenth, Keep::kHalf, Keep::kHoles}) {
      Run(++seed,
          {.name = bytes, .token_bytes = token_bytes, .units = UnitsOf({0, 1, 7, 8, 9, 16, 17, 64, 333}, keep)});
    }
  }
  for (const size_t misalign : {2, 4, 8, 14, 16}) {
    Run(++seed, {.name = "off by " + std::to_string(misalign),
                 .units = UnitsOf({1, 65, 200}, Keep::kHalf),
                 .misalign = misalign});
  }
  Run(++seed, {.name = "no units", .units = {}});
  Run(++seed, {.name = "no sides", .units = UnitsOf({5, 100}, Keep::kHalf), .sides = false});
  Run(++seed,
      {.name = "some units stay",
       .units = {
           {40, Keep::kAll, false}, {50, Keep::kHalf, true}, {60, Keep::kTenth, false}, {70, Keep::kTenth, true}}});
  Run(++seed, {.name = "nobody moves", .units = {{40, Keep::kAll, false}}});
  if (Small()) return;
  Run(++seed, {.name = "ragged", .units = {{100'000, Keep::kHalf}, {1, Keep::kAll}, {33, Keep::kNone}}});
  Run(++seed,
      {.name = "many tokens", .token_bytes = 32, .units = {{kMany + 3, Keep::kAll}, {kMany - 1, Keep::kHoles}}});
  // More units than the grid is high, and more tokens in one than the grid is then wide.
  std::vector<Unit> many(40'000, Unit{3, Keep::kHalf});
  for (size_t u = 0; u < many.size(); u += 1000) many[u] = {500, Keep::kAll};
  Run(++seed, {.name = "many units", .token_bytes = 4, .units = std::move(many)});
}

// Blocks behind the first 4 GiB: a 32-bit product anywhere would show.
void RunFarBlocks() {
  constexpr size_t kBlockBytes = 8192;
  constexpr uint32_t kBlocks = 700'000;
  constexpr int32_t kTokens = 40;
  std::byte* data = nullptr;
  if (!CHECK_CUDA(cudaMalloc(reinterpret_cast<void**>(&data), kBlocks * kBlockBytes))) return;
  const DeviceArray<int32_t> positions(size_t{kBlocks} * kBlockTokens);
  const std::vector<uint32_t> from = {kBlocks - 1, 3, kBlocks - 2}, to = {7, kBlocks - 3, kBlocks - 4};
  std::vector<int32_t> kept(kTokens);
  std::iota(kept.begin(), kept.end(), 0);
  Random random(99);
  std::vector<std::byte> contents(from.size() * kBlockBytes), got(contents.size());
  Fill(random, contents);
  for (size_t k = 0; k < from.size(); ++k) {
    CHECK_CUDA(cudaMemcpy(data + from[k] * kBlockBytes, &contents[k * kBlockBytes], kBlockBytes, cudaMemcpyDefault));
    CHECK_CUDA(cudaMemset(data + to[k] * kBlockBytes, 0, kBlockBytes));
  }
  const DeviceArray<uint32_t> blocks(from), targets(to);
  const DeviceArray<int32_t> length(std::vector<int32_t>{kTokens}), stored(std::vector<int32_t>{0}),
      appended(std::vector<int32_t>{1000}), list(kept);
  const DeviceArray<int64_t> offset(std::vector<int64_t>{0, kTokens});
  const DevicePool pool{data, kBlockBytes, positions.data(), nullptr, nullptr};
  const DeviceUnits units{
      1, 1, kTokens, 3, blocks.data(), length.data(), stored.data(), appended.data(), offset.data()};
  const DeviceWave wave{.count = 1,
                        .most_kept = kTokens,
                        .kept = list.data(),
                        .kept_begin = offset.data(),
                        .kept_count = length.data(),
                        .to = targets.data(),
                        .to_stride = 3};
  CHECK_CUDA(cudaDeviceSynchronize());
  CHECK_CUDA(LaunchCompact(pool, units, wave, nullptr));
  for (size_t k = 0; k < to.size(); ++k) {
    CHECK_CUDA(cudaMemcpy(&got[k * kBlockBytes], data + to[k] * kBlockBytes, kBlockBytes, cudaMemcpyDefault));
  }
  // The last block's slots 8 to 15 were never written.
  constexpr size_t kHalf = kBlockBytes / 2, kEmpty = 2 * kBlockBytes + kHalf / 2;
  std::fill_n(contents.begin() + kEmpty, kHalf / 2, std::byte{0});
  std::fill_n(contents.begin() + kEmpty + kHalf, kHalf / 2, std::byte{0});
  CHECK(SameBytes(contents, got));
  const std::vector<int32_t> position = positions.Read();
  for (int32_t k = 0; k < kTokens; ++k) {
    CHECK(position[size_t{to[static_cast<size_t>(k / kBlockTokens)]} * kBlockTokens + k % kBlockTokens] == 1000 + k);
  }
  CHECK_CUDA(cudaFree(data));
}

void RunRefusals() {
  const int32_t* some = reinterpret_cast<const int32_t*>(64);  // never read: what is wrong is refused before a launch
  DeviceWave wave{.count = 1, .most_kept = 1, .kept = some, .kept_count = some};
  DevicePool pool{reinterpret_cast<std::byte*>(4096), 33};
  CHECK(LaunchCompact(pool, {}, wave, nullptr) == cudaErrorInvalidValue);
  pool.block_bytes = 96;  // three bytes a token
  CHECK(LaunchCompact(pool, {}, wave, nullptr) == cudaErrorInvalidValue);
  pool = {reinterpret_cast<std::byte*>(4097), 8192};
  CHECK(LaunchCompact(pool, {}, wave, nullptr) == cudaErrorMisalignedAddress);
}

}  // namespace
}  // namespace kvsteward::gpu_test

int main() {
  kvsteward::gpu_test::RunRefusals();
  kvsteward::gpu_test::RunShapes();
  if (!kvsteward::gpu_test::Small()) kvsteward::gpu_test::RunFarBlocks();
  return kvsteward::gpu_test::TestResult();
}
