// Stored numbers to vectors of float32, exactly: part of the sources that are compiled once per instruction set.
#if defined(KVSTEWARD_KERNELS_CPU_LOAD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVSTEWARD_KERNELS_CPU_LOAD_INL_H_
#undef KVSTEWARD_KERNELS_CPU_LOAD_INL_H_
#else
#define KVSTEWARD_KERNELS_CPU_LOAD_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "hwy/highway.h"
#include "kvsteward/engine/tensor.h"

HWY_BEFORE_NAMESPACE();
namespace kvsteward::engine::cpu::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

// As many numbers as D, a tag of floats, has lanes.
template <DType kType, class D>
HWY_INLINE hn::Vec<D> LoadFloats(D d, const std::byte* from) {
  if constexpr (kType == DType::kF32) {
    return hn::LoadU(d, reinterpret_cast<const float*>(from));
  } else {
    using T = std::conditional_t<kType == DType::kF16, hwy::float16_t, hwy::bfloat16_t>;
    const hn::Rebind<uint16_t, D> du16;
    const hn::Rebind<T, D> dt;
    return hn::PromoteTo(d, hn::BitCast(dt, hn::LoadU(du16, reinterpret_cast<const uint16_t*>(from))));
  }
}

}  // namespace
}  // namespace kvsteward::engine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
