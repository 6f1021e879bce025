// float16 as bits, with the conversions that are used. Exact as CUDA's: to the nearest, ties to even.
#pragma once

#include <cuda_runtime_api.h>

#include <bit>
#include <cmath>
#include <cstdint>

// NOLINTBEGIN(readability-identifier-naming): CUDA's names
struct __half {
  uint16_t bits;
};

inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
inline unsigned short __half_as_ushort(__half half) { return half.bits; }

inline float __half2float(__half half) {
  const uint32_t shifted = uint32_t{half.bits} << 17;  // without the sign
  // The exponent and mantissa in place, and the difference of the biases by an exact product; or, below the normal
  // numbers, the mantissa behind the point of 0.5.
  const float normal = std::bit_cast<float>((shifted >> 4) + (0xe0u << 23)) * 0x1p-112f;
  const float denormal = std::bit_cast<float>((shifted >> 17) | (126u << 23)) - 0.5f;
  const uint32_t magnitude = std::bit_cast<uint32_t>(shifted < (1u << 27) ? denormal : normal);
  return std::bit_cast<float>(magnitude | (uint32_t{half.bits} & 0x8000u) << 16);
}

inline __half __float2half_rn(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return {0x7fff};
  if (magnitude >= 65520.0f) return {static_cast<uint16_t>(sign | 0x7c00u)};
  // Added to a power of two whose last place is the half's, the sum is rounded as the half is.
  int exponent = 0;
  std::frexp(magnitude, &exponent);
  exponent = exponent < -13 ? -13 : exponent;
  const float rounded = magnitude + std::ldexp(1.5f, exponent + 12) - std::ldexp(1.5f, exponent + 12);
  if (rounded < 0x1p-14f) return {static_cast<uint16_t>(sign | static_cast<uint16_t>(rounded * 0x1p24f))};
  const auto wide = std::bit_cast<uint32_t>(rounded);
  return {static_cast<uint16_t>(sign | ((wide >> 13) - (112u << 10)))};
}
inline __half __float2half(float value) { return __float2half_rn(value); }
// NOLINTEND(readability-identifier-naming)
