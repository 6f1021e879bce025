// The emulator itself: that it does what the programming guide and the PTX ISA say, and dies where they forbid.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numeric>
#include <set>
#include <vector>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/ptx.cuh"
#include "tests/emulation/faults.h"

namespace kvsteward::emulation {
namespace {

using engine::cuda::AwaitCopies;
using engine::cuda::CommitCopies;
using engine::cuda::CopyAsync;
using engine::cuda::Launch;
using engine::cuda::LoadMatrices;
using engine::cuda::Multiply;
using engine::cuda::SharedMemory;
using testing::Each;

constexpr unsigned kAll = 0xffffffffu;

// ---- Grids and barriers
// ----------------------------------------------------------------------------------------------
void CountThreads(int* seen, std::vector<unsigned>* order) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  ++seen[block * 70 + thread];
  if (thread == 0) order->push_back(block);
}

TEST(EmulationTest, EveryThreadOfEveryBlockRunsOnceInNoOrder) {
  std::vector<int> seen(60 * 70);
  std::vector<unsigned> order;
  ASSERT_EQ(Launch(CountThreads, dim3(3, 4, 5), dim3(7, 5, 2), 0, nullptr, seen.data(), &order), cudaSuccess);
  EXPECT_THAT(seen, Each(1));
  EXPECT_FALSE(std::ranges::is_sorted(order));
}

void Reverse(int* values) {
  __shared__ int shared[300];
  shared[threadIdx.x] = values[threadIdx.x];
  if (threadIdx.x >= 290) return;  // those who have ended are not waited for
  __syncthreads();
  values[threadIdx.x] = shared[299 - threadIdx.x];
  __syncthreads();
  values[threadIdx.x] += shared[299 - threadIdx.x] - values[threadIdx.x];
}

TEST(EmulationTest, BarrierWaitsForLiveThreads) {
  std::vector<int> values(300);
  std::iota(values.begin(), values.end(), 0);
  ASSERT_EQ(Launch(Reverse, 1, 300, 0, nullptr, values.data()), cudaSuccess);
  for (int i = 0; i < 290; ++i) EXPECT_EQ(values[static_cast<size_t>(i)], 299 - i);
}

void SumThroughDynamicMemory(size_t bytes, int* sum) {
  auto* const shared = reinterpret_cast<unsigned char*>(SharedMemory());
  if (threadIdx.x == 0) *sum += std::count(shared, shared + bytes, 0xff) == static_cast<int>(bytes) ? 0 : 1000;
  __syncthreads();
  shared[threadIdx.x] = 1;
  __syncthreads();
  if (threadIdx.x == 0) *sum += std::accumulate(shared, shared + blockDim.x, 0);
}

TEST(EmulationTest, DynamicSharedMemoryIsPoisonedAndLimited) {
  int sum = 0;
  ASSERT_EQ(Launch(SumThroughDynamicMemory, 2, 64, 100, nullptr, size_t{100}, &sum), cudaSuccess);
  EXPECT_EQ(sum, 128);
  constexpr size_t kMuch = 60'000;
  EXPECT_EQ(Launch(SumThroughDynamicMemory, 1, 64, kMuch, nullptr, kMuch, &sum), cudaErrorInvalidValue);
  ASSERT_EQ(cudaFuncSetAttribute(SumThroughDynamicMemory, cudaFuncAttributeMaxDynamicSharedMemorySize, 60'000),
            cudaSuccess);
  EXPECT_EQ(Launch(SumThroughDynamicMemory, 1, 64, kMuch, nullptr, kMuch, &sum), cudaSuccess);
  EXPECT_EQ(cudaFuncSetAttribute(SumThroughDynamicMemory, cudaFuncAttributeMaxDynamicSharedMemorySize, 300'000),
            cudaErrorInvalidValue);
}

void Nothing() {}

TEST(EmulationTest, RefusesGridsThatNoDeviceTakes) {
  EXPECT_EQ(Launch(Nothing, dim3(1, 65'535), 1, 0, nullptr), cudaSuccess);
  EXPECT_EQ(Launch(Nothing, 0, 32, 0, nullptr), cudaErrorInvalidConfiguration);
  EXPECT_EQ(Launch(Nothing, dim3(1, 65'536), 32, 0, nullptr), cudaErrorInvalidConfiguration);
  EXPECT_EQ(Launch(Nothing, 1, 1025, 0, nullptr), cudaErrorInvalidConfiguration);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidConfiguration);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

// ---- Warps
// -----------------------------------------------------------------------------------------------------------
void Shuffles(int* out) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = static_cast<int>(threadIdx.x / 32);
  int* const mine = out + threadIdx.x * 8;
  const int value = 100 * warp + lane;
  mine[0] = __shfl_sync(kAll, value, 5);
  mine[1] = __shfl_up_sync(kAll, value, 3);
  mine[2] = __shfl_down_sync(kAll, value, 3);
  mine[3] = __shfl_xor_sync(kAll, value, 8);
  mine[4] = __shfl_sync(kAll, value, 1, 8);
  mine[5] = __shfl_up_sync(kAll, value, 3, 8);
  mine[6] = __shfl_down_sync(kAll, value, 3, 8);
  mine[7] = static_cast<int>(__shfl_xor_sync(kAll, value + 0.5, 1));
}

TEST(EmulationTest, Shuffles) {
  std::vector<int> out(96 * 8);
  ASSERT_EQ(Launch(Shuffles, 1, 96, 0, nullptr, out.data()), cudaSuccess);
  for (int thread = 0; thread < 96; ++thread) {
    const int lane = thread % 32;
    const int base = 100 * (thread / 32);
    const int* const mine = &out[static_cast<size_t>(thread) * 8];
    const std::vector<int> expected = {5,
                                       lane < 3 ? lane : lane - 3,
                                       lane > 28 ? lane : lane + 3,
                                       lane ^ 8,
                                       lane / 8 * 8 + 1,
                                       lane % 8 < 3 ? lane : lane - 3,
                                       lane % 8 > 4 ? lane : lane + 3,
                                       lane ^ 1};
    for (size_t i = 0; i < 8; ++i) EXPECT_EQ(mine[i], base + expected[i]) << "lane " << lane << ", value " << i;
  }
}

// Two groups of lanes meet apart, at the same time; then all.
void Votes(unsigned* out) {
  const unsigned lane = threadIdx.x;
  const unsigned mine = lane < 12 ? 0xfffu : ~0xfffu;
  unsigned* const to = out + lane * 6;
  if (lane < 12) {
    to[0] = __ballot_sync(0xfffu, lane % 3 == 0);
    to[1] = __reduce_add_sync(0xfffu, lane);
  } else {
    to[0] = __ballot_sync(~0xfffu, lane % 3 == 0);
    to[1] = __reduce_max_sync(~0xfffu, lane);
  }
  __syncwarp();
  to[2] = __match_any_sync(mine, lane % 4);
  to[3] = static_cast<unsigned>(__reduce_min_sync(kAll, -static_cast<int>(lane)));
  to[4] = static_cast<unsigned>(__any_sync(kAll, lane == 7));
  to[5] = static_cast<unsigned>(__all_sync(mine, lane < 12));
}

TEST(EmulationTest, VotesAndReductionsOfGroups) {
  std::vector<unsigned> out(32 * 6);
  ASSERT_EQ(Launch(Votes, 1, 32, 0, nullptr, out.data()), cudaSuccess);
  for (unsigned lane = 0; lane < 32; ++lane) {
    const unsigned mine = lane < 12 ? 0xfffu : ~0xfffu;
    const unsigned* const got = &out[lane * 6];
    EXPECT_EQ(got[0], 0x49249249u & mine);
    EXPECT_EQ(got[1], lane < 12 ? 66u : 31u);
    EXPECT_EQ(got[2], (0x11111111u << (lane % 4)) & mine);
    EXPECT_EQ(static_cast<int>(got[3]), -31);
    EXPECT_EQ(got[4], 1u);
    EXPECT_EQ(got[5], lane < 12 ? 1u : 0u);
  }
}

void Early(unsigned* out) {
  if (threadIdx.x % 2 == 1) return;
  *out = __ballot_sync(kAll, 1);
}

TEST(EmulationTest, LanesThatHaveEndedAreNotWaitedFor) {
  unsigned out = 0;
  ASSERT_EQ(Launch(Early, 1, 20, 0, nullptr, &out), cudaSuccess);  // nor those that never were
  EXPECT_EQ(out, 0x55555u);
}

template <class T>
void Add(T* sum, T* least) {
  atomicAdd(sum, static_cast<T>(threadIdx.x));
  if constexpr (!std::is_floating_point_v<T>) atomicMin(least, static_cast<T>(1000 - threadIdx.x));
}

TEST(EmulationTest, Atomics) {
  unsigned long long sum = 1, least = 5000;
  ASSERT_EQ(Launch(Add<unsigned long long>, 3, 100, 0, nullptr, &sum, &least), cudaSuccess);
  EXPECT_EQ(sum, 1 + 3 * 4950u);
  EXPECT_EQ(least, 901u);
  float total = 0.5f;
  ASSERT_EQ(Launch(Add<float>, 2, 100, 0, nullptr, &total, static_cast<float*>(nullptr)), cudaSuccess);
  EXPECT_EQ(total, 9900.5f);
}

// ---- What is forbidden
// -----------------------------------------------------------------------------------------------
void OneLaneAway() {
  if (threadIdx.x == 3) {
    __syncthreads();
  } else {
    __ballot_sync(kAll, 1);
  }
}
void OtherOperation() {
  if (threadIdx.x == 3) {
    __syncwarp();
  } else {
    __ballot_sync(kAll, 1);
  }
}
void OtherMask() { __syncwarp(threadIdx.x == 3 ? 0xfu : kAll); }
void NotInMask() { __syncwarp(0xfu); }
void BarrierOrWarp() {
  if (threadIdx.x < 40) __syncthreads();
  if (threadIdx.x == 50) __syncwarp(1u << 18 | 1u << 19);
  if (threadIdx.x == 51) __syncthreads();
}
void FromNobody() { __shfl_sync(0xffu, 1, threadIdx.x == 0 ? 9 : 0); }
void HalfAWarp(float* out) {
  const uint32_t a[4] = {};
  Multiply<true>(a, 0, 0, out, out + 2);
}
void Misaligned(char* at) { atomicAdd(reinterpret_cast<int*>(at + 1), 1); }

TEST(EmulationDeathTest, WhatIsForbiddenDies) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  alignas(16) float out[4] = {};
  EXPECT_DEATH((void)Launch(OneLaneAway, 1, 32, 0, nullptr), "divergent collective.*0x8 never come");
  EXPECT_DEATH((void)Launch(OtherOperation, 1, 32, 0, nullptr), "divergent collective.*another operation");
  EXPECT_DEATH((void)Launch(OtherMask, 1, 32, 0, nullptr), "divergent collective");
  EXPECT_DEATH((void)Launch(NotInMask, 1, 8, 0, nullptr), "of which the caller is none");
  EXPECT_DEATH((void)Launch(BarrierOrWarp, 1, 64, 0, nullptr), "41 of 42 live threads are at a barrier");
  EXPECT_DEATH((void)Launch(FromNobody, 1, 8, 0, nullptr), "shuffles from lane 9");
  EXPECT_DEATH((void)Launch(HalfAWarp, 1, 16, 0, nullptr, out), "it takes a whole warp");
  EXPECT_DEATH((void)Launch(Misaligned, 1, 1, 0, nullptr, reinterpret_cast<char*>(out)), "misaligned");
}

// ---- PTX
// -------------------------------------------------------------------------------------------------------------
void LoadNumbered(uint16_t* out) {
  auto* const numbers = reinterpret_cast<uint16_t*>(SharedMemory());  // matrix m, row r, column c: 64 m + 8 r + c
  for (unsigned i = threadIdx.x; i < 256; i += 32) numbers[i] = static_cast<uint16_t>(i);
  __syncwarp();
  uint32_t got[4];
  LoadMatrices(SharedMemory() + threadIdx.x * 16, got);
  for (unsigned m = 0; m < 4; ++m) {
    out[(threadIdx.x * 4 + m) * 2] = static_cast<uint16_t>(got[m]);
    out[(threadIdx.x * 4 + m) * 2 + 1] = static_cast<uint16_t>(got[m] >> 16);
  }
}

TEST(EmulationTest, LdmatrixGivesEachLaneTwoNumbersOfARow) {
  std::vector<uint16_t> out(32 * 8);
  ASSERT_EQ(Launch(LoadNumbered, 1, 32, 512, nullptr, out.data()), cudaSuccess);
  for (unsigned lane = 0; lane < 32; ++lane) {
    for (unsigned m = 0; m < 4; ++m) {
      for (unsigned half = 0; half < 2; ++half) {
        EXPECT_EQ(out[(lane * 4 + m) * 2 + half], 64 * m + 8 * (lane / 4) + 2 * (lane % 4) + half);
      }
    }
  }
}

// c (16 x 8) += a (16 x 16) times the transpose of b (8 x 16), fragments loaded as everybody does: by ldmatrix.
template <bool kBf16>
void MultiplyMatrices(const uint16_t* a, const uint16_t* b, float* c) {
  auto* const shared = reinterpret_cast<uint16_t*>(SharedMemory());
  for (unsigned i = threadIdx.x; i < 256; i += 32) shared[i] = a[i];
  for (unsigned i = threadIdx.x; i < 128; i += 32) shared[256 + i] = b[i];
  __syncwarp();
  const unsigned lane = threadIdx.x;
  uint32_t of_a[4];
  uint32_t of_b[4];
  LoadMatrices(reinterpret_cast<std::byte*>(shared + lane % 16 * 16 + lane / 16 * 8), of_a);
  LoadMatrices(reinterpret_cast<std::byte*>(shared + 256 + lane % 8 * 16 + lane / 8 % 2 * 8), of_b);
  float* const upper = c + lane / 4 * 8 + lane % 4 * 2;
  Multiply<kBf16>(of_a, of_b[0], of_b[1], upper, upper + 64);
}

template <bool kBf16>
void TestMultiply() {
  std::array<float, 256> a;
  std::array<float, 128> b;
  std::array<float, 128> c, expected;
  std::array<uint16_t, 256> a_bits;
  std::array<uint16_t, 128> b_bits;
  uint32_t state = 1;
  const auto draw = [&] {
    state = state * 1664525u + 1013904223u;
    return static_cast<float>(static_cast<int>(state >> 24) - 128) * 0x1p-4f;  // exact in both types
  };
  const auto bits = [](float value) { return kBf16 ? __float2bfloat16_rn(value).bits : __float2half_rn(value).bits; };
  for (float& value : a) value = draw();
  for (float& value : b) value = draw();
  for (float& value : c) value = draw();
  std::ranges::transform(a, a_bits.begin(), bits);
  std::ranges::transform(b, b_bits.begin(), bits);
  for (size_t row = 0; row < 16; ++row) {
    for (size_t column = 0; column < 8; ++column) {
      expected[row * 8 + column] = c[row * 8 + column];
      for (size_t k = 0; k < 16; ++k) expected[row * 8 + column] += a[row * 16 + k] * b[column * 16 + k];
    }
  }
  ASSERT_EQ(Launch(MultiplyMatrices<kBf16>, 1, 32, 768, nullptr, a_bits.data(), b_bits.data(), c.data()), cudaSuccess);
  EXPECT_EQ(c, expected);  // every sum is exact
}

TEST(EmulationTest, MmaIsTheNaiveProduct) {
  TestMultiply<true>();
  TestMultiply<false>();
}

void CopyPieces(const std::byte* from, std::byte* out, int* early) {
  std::byte* const shared = SharedMemory();
  for (int piece = 0; piece < 2; ++piece) {
    const unsigned at = (threadIdx.x * 2 + static_cast<unsigned>(piece)) * 16;
    CopyAsync(shared + at, from + at, threadIdx.x % 3 != 0);
    CommitCopies();
  }
  AwaitCopies<1>();
  if (shared[threadIdx.x * 32 + 16] == std::byte{0xff}) ++*early;
  std::memcpy(out + threadIdx.x * 32, shared + threadIdx.x * 32, 16);
  AwaitCopies<0>();
  std::memcpy(out + threadIdx.x * 32 + 16, shared + threadIdx.x * 32 + 16, 16);
}

TEST(EmulationTest, AsynchronousCopiesAreThereOnceAwaited) {
  alignas(16) std::array<std::byte, 64 * 32> from, out;
  for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<std::byte>(i % 251);
  int early = 0;
  ASSERT_EQ(Launch(CopyPieces, 1, 64, out.size(), nullptr, from.data(), out.data(), &early), cudaSuccess);
  for (size_t i = 0; i < out.size(); ++i) EXPECT_EQ(out[i], i / 32 % 3 == 0 ? std::byte{0} : from[i]) << i;
  EXPECT_GT(early, 5);  // about half are late
  EXPECT_LT(early, 59);
}

// ---- Number types
// ----------------------------------------------------------------------------------------------------
TEST(EmulationTest, HalfRoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const __half half{static_cast<uint16_t>(bits)};
    const float value = __half2float(half);
    if ((bits & 0x7fff) > 0x7c00) {
      EXPECT_TRUE(std::isnan(value));
      continue;
    }
    // By the definition of the format.
    const int exponent = static_cast<int>(bits >> 10 & 31);
    const auto mantissa = static_cast<float>(bits & 1023);
    float expected = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    if (exponent == 31) expected = INFINITY;
    EXPECT_EQ(value, (bits & 0x8000) != 0 ? -expected : expected);
    EXPECT_EQ(__float2half_rn(value).bits, bits);
    if ((bits & 0x7fff) >= 0x7bff) continue;
    const float next = __half2float({static_cast<uint16_t>(bits + 1)});
    const float middle = (value + next) / 2;
    EXPECT_EQ(__float2half_rn(middle).bits, bits + bits % 2);
    EXPECT_EQ(__float2half_rn(std::nextafter(middle, value)).bits, bits);
    EXPECT_EQ(__float2half_rn(std::nextafter(middle, next)).bits, bits + 1);
  }
  EXPECT_EQ(__float2half_rn(65519.996f).bits, 0x7bff);
  EXPECT_EQ(__float2half_rn(-65520.0f).bits, 0xfc00);
  EXPECT_EQ(__float2bfloat16_rn(std::bit_cast<float>(0x3f808000u)).bits, 0x3f80);
  EXPECT_EQ(__float2bfloat16_rn(std::bit_cast<float>(0x3f818000u)).bits, 0x3f82);
  EXPECT_EQ(__float2bfloat16_rn(std::bit_cast<float>(0x3f808001u)).bits, 0x3f81);
}

// ---- The runtime
// -----------------------------------------------------------------------------------------------------
TEST(EmulationTest, AllocationsFailWhenToldAndAreCounted) {
  size_t before = 0, total = 0, after = 0;
  ASSERT_EQ(cudaMemGetInfo(&before, &total), cudaSuccess);
  unsigned char* data = nullptr;
  ASSERT_EQ(cudaMalloc(&data, 1000), cudaSuccess);
  EXPECT_THAT(std::vector<int>(data, data + 1000), Each(0xff));
  ASSERT_EQ(cudaMemGetInfo(&after, &total), cudaSuccess);
  EXPECT_EQ(after, before - 1000);
  void* more = nullptr;
  EXPECT_EQ(cudaMalloc(&more, after + 1), cudaErrorMemoryAllocation);
  FailAllocationsAfter(1);
  void* host = nullptr;
  EXPECT_EQ(cudaMallocHost(&host, 16), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&more, 16), cudaErrorMemoryAllocation);
  EXPECT_EQ(more, nullptr);
  FailAllocationsAfter(-1);
  EXPECT_EQ(cudaFree(host), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFreeHost(host), cudaSuccess);
  EXPECT_EQ(cudaFree(data), cudaSuccess);
  EXPECT_EQ(cudaFree(data), cudaErrorInvalidValue);
  ASSERT_EQ(cudaMemGetInfo(&after, &total), cudaSuccess);
  EXPECT_EQ(after, before);
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
}

TEST(EmulationTest, HostMemoryIsRegisteredOnce) {
  std::vector<char> memory(100);
  void* device = nullptr;
  EXPECT_EQ(cudaHostGetDevicePointer(&device, memory.data(), 0), cudaErrorInvalidValue);
  EXPECT_EQ(cudaHostRegister(memory.data(), 100, cudaHostRegisterMapped), cudaSuccess);
  EXPECT_EQ(cudaHostRegister(memory.data() + 99, 1, 0), cudaErrorHostMemoryAlreadyRegistered);
  EXPECT_EQ(cudaHostGetDevicePointer(&device, memory.data() + 50, 0), cudaSuccess);
  EXPECT_EQ(device, memory.data() + 50);
  EXPECT_EQ(cudaHostUnregister(memory.data() + 1), cudaErrorHostMemoryNotRegistered);
  EXPECT_EQ(cudaHostUnregister(memory.data()), cudaSuccess);
  (void)cudaGetLastError();
}

}  // namespace
}  // namespace kvsteward::emulation
