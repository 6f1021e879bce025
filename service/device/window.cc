#include "service/device/window.h"

#include <string>

#include "absl/status/status.h"
#include "kvsteward/shm.h"

namespace kvsteward::device {

absl::StatusOr<engine::WindowView> ResolveWindow(const core::EvictSpec& evict, const core::LeaseSpec& lease,
                                                 std::span<const std::byte> statistics, int32_t written_tokens,
                                                 std::vector<int32_t>* positions) {
  if (evict.window_rows == 0) return engine::WindowView();
  const engine::Geometry& geometry = lease.geometry;
  const auto rows = static_cast<uint64_t>(evict.window_rows);
  // No overflow: rpc/ bounds layers, heads and head_dim by 1024.
  const uint64_t bytes = static_cast<uint64_t>(geometry.layers) * static_cast<uint64_t>(geometry.query_heads) * rows *
                         static_cast<uint64_t>(geometry.head_dim) * engine::SizeOf(evict.window_dtype);

  engine::WindowView window{
      .queries = nullptr, .dtype = evict.window_dtype, .rows = evict.window_rows, .positions = {}};
  if (evict.window_inline) {
    if (evict.inline_queries.size() != bytes) {
      return absl::InvalidArgumentError("window.inline_queries has " + std::to_string(evict.inline_queries.size()) +
                                        " bytes; [layers, query_heads, rows, head_dim] of its dtype needs " +
                                        std::to_string(bytes));
    }
    window.queries = evict.inline_queries.data();
  } else {
    if (evict.window_slot >= lease.window_slots) {
      return absl::InvalidArgumentError("window.slot is " + std::to_string(evict.window_slot) +
                                        "; it must be below the " + std::to_string(lease.window_slots) +
                                        " that Attach named as window_slots");
    }
    if (rows > lease.window_rows) {
      return absl::InvalidArgumentError("window.rows is " + std::to_string(rows) + "; it must be at most the " +
                                        std::to_string(lease.window_rows) + " that Attach named as window_rows");
    }
    const uint64_t offset = KVS_WINDOWS_OFFSET + evict.window_slot * lease.window_slot_bytes;
    if (bytes > lease.window_slot_bytes || offset > statistics.size() || bytes > statistics.size() - offset) {
      return absl::InvalidArgumentError("window.rows is " + std::to_string(rows) + ", in all " + std::to_string(bytes) +
                                        " bytes of queries; a window slot holds " +
                                        std::to_string(lease.window_slot_bytes) + " bytes");
    }
    window.queries = statistics.data() + offset;
  }

  if (!evict.window_positions.empty()) {
    window.positions = evict.window_positions;
    return window;
  }
  if (evict.window_rows > written_tokens) {
    return absl::InvalidArgumentError("window.rows is " + std::to_string(rows) + " but only " +
                                      std::to_string(written_tokens) +
                                      " tokens are written; name their positions in window.positions");
  }
  positions->resize(rows);
  for (size_t i = 0; i < rows; ++i) (*positions)[i] = written_tokens - evict.window_rows + static_cast<int32_t>(i);
  window.positions = *positions;
  return window;
}

}  // namespace kvsteward::device
