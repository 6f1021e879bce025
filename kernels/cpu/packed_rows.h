// The query rows that a layer's scoring uses, and one kv head's of them packed for the inner loops. A PackedRows owns
// what its QueryRows point to; the sequence, policy and candidates behind a UsedRows must outlive it.
// Thread-compatible.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "hwy/aligned_allocator.h"
#include "kernels/cpu/tiles.h"
#include "kvsteward/engine/paged.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine::cpu {

// Rows [first, first + count) of the window, for every query head of the layer.
struct UsedRows {
  const SequenceView* sequence = nullptr;
  const Policy* policy = nullptr;
  int64_t k = 0;
  int32_t layer = 0;
  int32_t first = 0;
  int32_t count = 0;

  // The last policy.window rows, all of them if that is 0; of a running policy those that it has not seen.
  UsedRows(const SequenceView& sequence, const Policy& policy, int64_t k, int32_t layer);

  // Rows of a kv head, one query head's after the other.
  int32_t in_head() const { return sequence->geometry.group() * count; }
  int32_t PositionAt(int32_t row_in_head) const {
    return sequence->window.positions[static_cast<size_t>(first + row_in_head % count)];
  }
  const UnitView& Unit(int32_t kv_head) const {
    return sequence->units[static_cast<size_t>(layer) * sequence->geometry.kv_heads + kv_head];
  }
  // The numbers of a row.
  const std::byte* Query(int32_t kv_head, int32_t row_in_head) const;
};

class PackedRows {
 public:
  // Packs the rows of `kv_head`; `open` as in QueryRows. REQUIRES: used.count > 0.
  void Pack(const UsedRows& used, int32_t kv_head, const CandidateSet* open);

  const QueryRows& rows() const { return rows_; }

 private:
  bool PackAmx(const UsedRows& used, int32_t kv_head);
  void PackPanels(const UsedRows& used, int32_t kv_head);

  hwy::AlignedFreeUniquePtr<float[]> panels_;
  hwy::AlignedFreeUniquePtr<uint16_t[]> amx_;
  std::vector<float> scale_;
  std::vector<int32_t> visible_;
  QueryRows rows_;
};

}  // namespace kvsteward::engine::cpu
