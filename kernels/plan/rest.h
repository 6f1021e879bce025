// What a selection in steps has left: the residents whose keep bit is not set yet. Stateless; thread-safe.
#pragma once

#include <bit>
#include <cstdint>
#include <span>
#include <vector>

namespace kvsteward::engine {

// Calls use(j) for every j < size whose bit is not set, in ascending order. `use` does not change the mask.
template <class Use>
void ForEachLeft(std::span<const uint64_t> mask, int64_t size, const Use& use) {
  for (int64_t first = 0; first < size; first += 64) {
    uint64_t left = ~mask[static_cast<size_t>(first / 64)];
    if (size - first < 64) left &= (uint64_t{1} << (size - first)) - 1;
    for (; left != 0; left &= left - 1) use(first + std::countr_zero(left));
  }
}

// A resident that is left, and what it is worth.
struct Worth {
  double worth;
  int64_t index;
};

// Sets the bits of the `count` of most worth, ties to the lower index. REQUIRES: 0 <= count <= left.size().
void KeepBest(std::span<const Worth> left, int64_t count, std::span<uint64_t> mask);

}  // namespace kvsteward::engine
