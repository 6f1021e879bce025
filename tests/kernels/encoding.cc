#include "tests/kernels/encoding.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace kvsteward::engine {
namespace {

uint16_t ToF16(double value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  if (std::isnan(value)) return 0x7e00;
  const double size = std::abs(value);
  if (size >= 65520) return sign | 0x7c00;
  if (size == 0) return sign;
  const int exponent = std::max(std::ilogb(size), -14);
  const auto mantissa = static_cast<int>(std::nearbyint(std::ldexp(size, 10 - exponent)));
  return sign | static_cast<uint16_t>(((exponent + 14) << 10) + mantissa);
}

double FromF16(uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int mantissa = bits & 1023;
  double size = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(mantissa + 1024, exponent - 25);
  if (exponent == 31) size = mantissa == 0 ? INFINITY : NAN;
  return (bits & 0x8000) != 0 ? -size : size;
}

uint16_t ToBF16(double value) {
  const auto bits = std::bit_cast<uint32_t>(static_cast<float>(value));
  if (std::isnan(value)) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

}  // namespace

double Rounded(DType dtype, double value) {
  std::byte stored[4];
  Encode(dtype, value, stored);
  return Decode(dtype, stored);
}

void Encode(DType dtype, double value, std::byte* to) {
  const auto f32 = static_cast<float>(value);
  const uint16_t half = dtype == DType::kF16 ? ToF16(value) : ToBF16(value);
  if (dtype == DType::kF32) {
    std::memcpy(to, &f32, sizeof(f32));
  } else {
    std::memcpy(to, &half, sizeof(half));
  }
}

double Decode(DType dtype, const std::byte* from) {
  float f32 = 0;
  uint16_t half = 0;
  if (dtype == DType::kF32) {
    std::memcpy(&f32, from, sizeof(f32));
    return f32;
  }
  std::memcpy(&half, from, sizeof(half));
  return dtype == DType::kF16 ? FromF16(half) : std::bit_cast<float>(static_cast<uint32_t>(half) << 16);
}

}  // namespace kvsteward::engine
