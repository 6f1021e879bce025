// One stored number as float32, exactly. For the places where speed does not matter; the vector loops have their own.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kvsteward/engine/tensor.h"

namespace kvsteward::engine::cpu {

inline float FloatFromHalf(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7fffu) << 13;  // in float32's fields, exponent off by 112
  if (magnitude >= 0x0f800000u) return std::bit_cast<float>(sign | 0x70000000u | magnitude);  // infinity, NaN
  const float value = std::bit_cast<float>(magnitude) * 0x1p112f;  // subnormals come out right as well
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(value));
}

// Element `index` of the array at `data`.
inline float Element(DType dtype, const std::byte* data, size_t index) {
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, data + index * sizeof(value), sizeof(value));
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, data + index * sizeof(bits), sizeof(bits));
  return dtype == DType::kF16 ? FloatFromHalf(bits) : std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

}  // namespace kvsteward::engine::cpu
