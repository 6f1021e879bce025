// Sizes: how a lease's extents are cut into blocks, and how bytes are rounded without overflow.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>

#include "service/core/core.h"
#include "service/core/types.h"

namespace kvsteward::core {

// Table and plan regions are handed out in places of this many bytes.
inline constexpr uint64_t kPlaceBytes = 64;

// An extent of a lease.
struct Layout {
  uint64_t extent_bytes = 0;   // whole blocks and whole granules
  uint64_t private_bytes = 0;  // position, norm and running score of each of its tokens
  uint32_t blocks_per_extent = 0;

  uint64_t charged_bytes() const { return extent_bytes + private_bytes; }  // both are below 2^62
};

// nullopt if no extent of such blocks can be laid out within 62 bits of bytes and 32 bits of blocks.
std::optional<Layout> LayoutFor(const Shape& shape, const Config& config);

// nullopt on overflow. REQUIRES: granule > 0.
std::optional<uint64_t> RoundUp(uint64_t bytes, uint64_t granule);

inline uint64_t SaturatingMultiply(uint64_t a, uint64_t b) {
  uint64_t product = 0;
  return __builtin_mul_overflow(a, b, &product) ? std::numeric_limits<uint64_t>::max() : product;
}
inline uint64_t SaturatingAdd(uint64_t a, uint64_t b) {
  uint64_t sum = 0;
  return __builtin_add_overflow(a, b, &sum) ? std::numeric_limits<uint64_t>::max() : sum;
}

}  // namespace kvsteward::core
