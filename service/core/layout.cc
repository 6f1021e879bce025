#include "service/core/layout.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "kvsteward/shm.h"

namespace kvsteward::core {
namespace {

constexpr uint64_t kMostBytes = uint64_t{1} << 62;
// Position, norm and running score of each token. The scores are charged though most leases never touch their pages:
// what the arena has promised is then there when one begins to.
constexpr uint64_t kPrivateBytesPerBlock = KVS_BLOCK_TOKENS * (sizeof(int32_t) + 2 * sizeof(float));

}  // namespace

std::optional<Layout> LayoutFor(const Shape& shape, const Config& config) {
  if (shape.block_bytes == 0) return std::nullopt;
  // The least extent: as many bytes as are both whole blocks and whole granules.
  const uint64_t granule = std::max(config.page_bytes, config.extent_granularity);
  const uint64_t step = shape.block_bytes / std::gcd(shape.block_bytes, granule);
  uint64_t least = 0;
  if (__builtin_mul_overflow(step, granule, &least) || least > kMostBytes) return std::nullopt;

  Layout layout;
  layout.extent_bytes = config.extent_bytes < least ? least : config.extent_bytes / least * least;
  const uint64_t blocks = layout.extent_bytes / shape.block_bytes;
  if (layout.extent_bytes > kMostBytes || blocks > std::numeric_limits<uint32_t>::max()) return std::nullopt;
  layout.blocks_per_extent = static_cast<uint32_t>(blocks);
  const std::optional<uint64_t> private_bytes = RoundUp(blocks * kPrivateBytesPerBlock, config.page_bytes);
  if (!private_bytes || *private_bytes > kMostBytes) return std::nullopt;
  layout.private_bytes = *private_bytes;
  return layout;
}

std::optional<uint64_t> RoundUp(uint64_t bytes, uint64_t granule) {
  const uint64_t over = bytes % granule;
  uint64_t rounded = bytes;
  if (over != 0 && __builtin_add_overflow(bytes, granule - over, &rounded)) return std::nullopt;
  return rounded;
}

uint64_t TableBytes(int32_t units, uint32_t row_capacity) {
  return kvs_table_bytes(static_cast<uint32_t>(units), row_capacity);
}

// Each mask, index list and score list begins at a multiple of 64, and everything may be kept.
uint64_t PlanBytes(const std::vector<int32_t>& lengths, bool scores) {
  uint64_t bytes = sizeof(kvs_plan) + kvs_align(lengths.size() * sizeof(kvs_unit_plan));
  for (const int32_t length : lengths) {
    const auto residents = static_cast<uint64_t>(length);
    bytes += kvs_align((residents + 63) / 64 * sizeof(uint64_t));
    bytes += kvs_align(residents * sizeof(uint32_t));
    if (scores) bytes += kvs_align(residents * sizeof(float));
  }
  return bytes;
}

}  // namespace kvsteward::core
