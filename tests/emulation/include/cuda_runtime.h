// What nvcc gives every .cu file by itself: CUDA's keywords, built-in variables and intrinsics, and the launch of a
// kernel. Semantics are the programming guide's; what it leaves undefined ends the process with a sentence where that
// can be told (tests/emulation/fibers.h).
#pragma once

#include <cuda_runtime_api.h>
#include <math.h>

#include <bit>
#include <cstring>
#include <limits>
#include <tuple>
#include <type_traits>
#include <utility>

#include "tests/emulation/fibers.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __shared__ static  // one block runs at a time
#define __grid_constant__
#define __forceinline__ inline
#define __launch_bounds__(...)

// ---- The launch
// ------------------------------------------------------------------------------------------------------
template <class... Params, class... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...), Args&&... args) {
  struct Call {
    void (*kernel)(Params...);
    std::tuple<std::remove_const_t<Params>...> args;
  };
  const Call call{kernel, {std::forward<Args>(args)...}};
  return ::kvsteward::emulation::LaunchGrid(
      *config, reinterpret_cast<const void*>(kernel),
      [](const void* of) {
        const Call& made = *static_cast<const Call*>(of);
        std::apply(made.kernel, made.args);
      },
      &call);
}

template <class... Params>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Params...), cudaFuncAttribute attribute, int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}

// ---- Arithmetic
// ------------------------------------------------------------------------------------------------------
#define KVS_MIN_MAX(T)                                \
  constexpr T min(T a, T b) { return b < a ? b : a; } \
  constexpr T max(T a, T b) { return a < b ? b : a; }
KVS_MIN_MAX(int)
KVS_MIN_MAX(unsigned)
KVS_MIN_MAX(long)
KVS_MIN_MAX(unsigned long)
KVS_MIN_MAX(long long)
KVS_MIN_MAX(unsigned long long)
#undef KVS_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

constexpr int __popc(unsigned x) { return std::popcount(x); }
constexpr int __popcll(unsigned long long x) { return std::popcount(x); }
constexpr int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
constexpr int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1; }
constexpr int __ffsll(long long x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned long long>(x)) + 1; }
constexpr float __int_as_float(int x) { return std::bit_cast<float>(x); }
constexpr float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
constexpr int __float_as_int(float x) { return std::bit_cast<int>(x); }
constexpr unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }

constexpr uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
constexpr uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
constexpr int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
constexpr float2 make_float2(float x, float y) { return {x, y}; }
constexpr float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// ---- Memory
// ---------------------------------------------------------------------------------------------------------- What the
// device demands everywhere, and the host does not.
template <class T>
T* KvsAligned(T* address) {
  if (reinterpret_cast<uintptr_t>(address) % sizeof(T) != 0) {
    ::kvsteward::emulation::Die("an access of %zu bytes to %p is misaligned", sizeof(T),
                                static_cast<const void*>(address));
  }
  return address;
}
template <class T>
T __ldg(const T* address) {
  return *KvsAligned(address);
}
template <class T>
T __ldcs(const T* address) {
  return *KvsAligned(address);
}
template <class T>
T __ldcg(const T* address) {
  return *KvsAligned(address);
}
template <class T>
void __stcs(T* address, T value) {
  *KvsAligned(address) = value;
}

inline void __threadfence() { asm volatile("mfence" ::: "memory"); }
inline void __threadfence_block() { __threadfence(); }
inline void __threadfence_system() { __threadfence(); }

// The kinds of number that CUDA has the operation for.
template <class T, class... Kinds>
concept KvsOneOf = (std::is_same_v<T, Kinds> || ...);

template <class T, class Change>
T KvsAtomic(T* address, Change change) {
  KvsAligned(address);
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  auto* const bits = reinterpret_cast<Bits*>(address);
  Bits seen = __atomic_load_n(bits, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(bits, &seen, std::bit_cast<Bits>(static_cast<T>(change(std::bit_cast<T>(seen)))),
                                      false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return std::bit_cast<T>(seen);
}
template <KvsOneOf<int, unsigned, unsigned long long, float, double> T>
T atomicAdd(T* address, std::type_identity_t<T> value) {
  if constexpr (std::is_integral_v<T>) return __atomic_fetch_add(KvsAligned(address), value, __ATOMIC_RELAXED);
  return KvsAtomic(address, [value](T old) { return old + value; });
}
template <KvsOneOf<int, unsigned, long long, unsigned long long> T>
T atomicMin(T* address, std::type_identity_t<T> value) {
  return KvsAtomic(address, [value](T old) { return min(old, value); });
}
template <KvsOneOf<int, unsigned, long long, unsigned long long> T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return KvsAtomic(address, [value](T old) { return max(old, value); });
}
template <KvsOneOf<int, unsigned, unsigned long long> T>
T atomicOr(T* address, std::type_identity_t<T> value) {
  return KvsAtomic(address, [value](T old) { return old | value; });
}
template <KvsOneOf<int, unsigned, unsigned long long, float> T>
T atomicExch(T* address, std::type_identity_t<T> value) {
  return KvsAtomic(address, [value](T) { return value; });
}
template <KvsOneOf<int, unsigned, unsigned long long> T>
T atomicCAS(T* address, std::type_identity_t<T> compare, std::type_identity_t<T> value) {
  return KvsAtomic(address, [compare, value](T old) { return old == compare ? value : old; });
}

// ---- Barriers and warps
// ----------------------------------------------------------------------------------------------
inline void __syncthreads() { ::kvsteward::emulation::Barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  ::kvsteward::emulation::Meet([](void* const*, uint32_t) {}, mask, nullptr);
}

// Folds the lanes' values in their order; all get the result.
template <class T, class Fold>
T KvsReduce(unsigned mask, T value, Fold) {
  ::kvsteward::emulation::Meet(
      [](void* const* lanes, uint32_t present) {
        T folded{};
        bool first = true;
        for (uint32_t left = present; left != 0; left &= left - 1) {
          const T one = *static_cast<T*>(lanes[std::countr_zero(left)]);
          folded = first ? one : Fold()(folded, one);
          first = false;
        }
        for (uint32_t left = present; left != 0; left &= left - 1)
          *static_cast<T*>(lanes[std::countr_zero(left)]) = folded;
      },
      mask, &value);
  return value;
}
template <KvsOneOf<int, unsigned> T>
T __reduce_add_sync(unsigned mask, T value) {
  return KvsReduce(mask, value,
                   [](T a, T b) { return static_cast<T>(static_cast<unsigned>(a) + static_cast<unsigned>(b)); });
}
template <KvsOneOf<int, unsigned> T>
T __reduce_min_sync(unsigned mask, T value) {
  return KvsReduce(mask, value, [](T a, T b) { return min(a, b); });
}
template <KvsOneOf<int, unsigned> T>
T __reduce_max_sync(unsigned mask, T value) {
  return KvsReduce(mask, value, [](T a, T b) { return max(a, b); });
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const unsigned mine = predicate != 0 ? 1u << ::kvsteward::emulation::LaneId() : 0;
  return KvsReduce(mask, mine, [](unsigned a, unsigned b) { return a | b; });
}
inline int __any_sync(unsigned mask, int predicate) {
  return KvsReduce(mask, predicate != 0 ? 1 : 0, [](int a, int b) { return a | b; });
}
inline int __all_sync(unsigned mask, int predicate) {
  return KvsReduce(mask, predicate != 0 ? 1 : 0, [](int a, int b) { return a & b; });
}

// Each lane gets the value of lane `from`, which must take part.
template <class T>
T KvsShuffle(unsigned mask, T value, int from) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
  struct Lane {
    T value;
    int from;
    T got;
  };
  Lane lane{value, from, T{}};
  ::kvsteward::emulation::Meet(
      [](void* const* lanes, uint32_t present) {
        for (uint32_t left = present; left != 0; left &= left - 1) {
          Lane& to = *static_cast<Lane*>(lanes[std::countr_zero(left)]);
          if ((present >> to.from & 1) == 0) {
            ::kvsteward::emulation::Die("lane %d shuffles from lane %d, which does not take part",
                                        std::countr_zero(left), to.from);
          }
          to.got = static_cast<Lane*>(lanes[to.from])->value;
        }
      },
      mask, &lane);
  return lane.got;
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int lane = ::kvsteward::emulation::LaneId();
  return KvsShuffle(mask, value, (lane & ~(width - 1)) | (source & (width - 1)));
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32) {
  const int lane = ::kvsteward::emulation::LaneId();
  const int from = lane - static_cast<int>(distance);
  return KvsShuffle(mask, value, from < (lane & ~(width - 1)) ? lane : from);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32) {
  const int lane = ::kvsteward::emulation::LaneId();
  const int from = lane + static_cast<int>(distance);
  return KvsShuffle(mask, value, from > (lane | (width - 1)) ? lane : from);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32) {
  const int lane = ::kvsteward::emulation::LaneId();
  const int from = lane ^ lane_mask;
  return KvsShuffle(mask, value, from > (lane | (width - 1)) ? lane : from);  // an earlier segment may be read
}
// The lanes whose value is the caller's.
template <class T>
unsigned __match_any_sync(unsigned mask, T value) {
  struct Lane {
    T value;
    unsigned alike;
  };
  Lane lane{value, 0};
  ::kvsteward::emulation::Meet(
      [](void* const* lanes, uint32_t present) {
        for (uint32_t left = present; left != 0; left &= left - 1) {
          Lane& one = *static_cast<Lane*>(lanes[std::countr_zero(left)]);
          for (uint32_t others = present; others != 0; others &= others - 1) {
            const int other = std::countr_zero(others);
            if (static_cast<Lane*>(lanes[other])->value == one.value) one.alike |= 1u << other;
          }
        }
      },
      mask, &lane);
  return lane.alike;
}
