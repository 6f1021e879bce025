#include "client/worker/cache_attention.h"

#include <string>

#include "base/run.h"

namespace kvsteward::worker {

absl::StatusOr<std::span<const uint32_t>> BlocksOf(const KvCache& cache, uint32_t unit, uint32_t tokens) {
  const std::span<const uint32_t> row = cache.Row(unit);
  const uint32_t needed = BlocksFor(tokens);
  if (row.size() < needed) {
    return absl::InternalError("unit " + std::to_string(unit) + " has " + std::to_string(row.size()) +
                               " blocks where its " + std::to_string(tokens) + " tokens need " +
                               std::to_string(needed));
  }
  return row.first(needed);
}

}  // namespace kvsteward::worker
