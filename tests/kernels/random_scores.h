// Random and adversarial rows of scores for tests of the selection. Pure functions of their seed.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

namespace kvsteward::engine {

inline constexpr uint32_t kScoreKinds = 8;

// A score of one kind of trouble.
inline float DrawScore(std::mt19937& random, uint32_t kind) {
  const auto uniform = static_cast<float>(random()) * 0x1p-32f;
  switch (kind % kScoreKinds) {
    case 0:
      return uniform;
    case 1:
      return 0.25f;  // all equal
    case 2:
      return static_cast<float>(random() % 4);  // many ties, zeros among them
    case 3:
      return std::ldexp(uniform, -static_cast<int>(random() % 140));  // any exponent, denormals among them
    case 4:
      return std::bit_cast<float>(0x3f800000u + static_cast<uint32_t>(random() % 3));  // differ in the last bit
    case 5:
      return 0.0f;
    case 6:
      return std::ldexp(1.0f + uniform, static_cast<int>(random() % 254) - 126);  // up to the greatest float
    default:
      return static_cast<float>(random() % 100'000);
  }
}

// A row of `size` scores with marks at the ends, in between, everywhere or everywhere but at one place.
inline std::vector<float> DrawRow(std::mt19937& random, size_t size, uint32_t kind) {
  std::vector<float> row;
  for (size_t j = 0; j < size; ++j) row.push_back(DrawScore(random, kind));
  const auto mark = [&](size_t j) { row[j] = -1.0f; };
  switch (random() % 6) {
    case 0:
      break;
    case 1:
      for (size_t j = 0; j < std::min<size_t>(size, 4); ++j) mark(j);
      for (size_t j = size - std::min<size_t>(size, 9); j < size; ++j) mark(j);
      break;
    case 2:
    case 3:
      for (size_t j = 0; j < size; ++j) {
        if (random() % 3 == 0) mark(j);
      }
      break;
    case 4:
      for (size_t j = 0; j < size; ++j) mark(j);
      break;
    default:
      for (size_t j = 0; j < size; ++j) {
        if (j != size / 2) mark(j);
      }
      break;
  }
  return row;
}

}  // namespace kvsteward::engine
