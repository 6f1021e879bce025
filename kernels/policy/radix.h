// Exact selection by the bits of scores: non-negative floats order as their bits, so a cut is found in three histogram
// passes, with integers only. Stateless; thread-safe.
#pragma once

#include <bit>
#include <cstdint>
#include <span>
#include <vector>

namespace kvsteward::engine {

// The order of non-negative floats as an unsigned integer of 31 bits.
inline uint32_t KeyOf(float score) { return std::bit_cast<uint32_t>(score) & 0x7fffffffu; }

// Where a selection cuts: what lies above `key` is in, what equals it is in as far as the total allows.
struct Cut {
  uint32_t key = 0;
  std::vector<int64_t> above;  // [units] scores with a greater key
  std::vector<int64_t> equal;  // [units] scores with this very key
};

// The greatest key t at which the selection reaches `total`, when unit u contributes the greater of floors[u] and its
// number of scores with keys >= t. Floors need no selection of their own because that sum is monotone in t.
// REQUIRES: 0 <= floors[u] <= units[u].size(); sum of floors <= total <= sum of sizes; no negative score.
Cut FindCut(std::span<const std::span<const float>> units, std::span<const int64_t> floors, int64_t total);

}  // namespace kvsteward::engine
