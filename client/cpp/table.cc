#include "client/cpp/table.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"

namespace kvsteward {
namespace {

// Once into a register: a second look could see another value.
uint32_t Load(const uint32_t& word) { return __atomic_load_n(&word, __ATOMIC_RELAXED); }

// [offset, offset + bytes) lies within `size`, aligned to `alignment`.
bool Lies(uint64_t offset, uint64_t bytes, uint64_t size, uint64_t alignment) {
  return offset % alignment == 0 && offset <= size && bytes <= size - offset;
}

}  // namespace

uint32_t SequenceTable::Row::Residents(uint32_t tokens) const {
  const uint64_t since = tokens > base_tokens ? tokens - base_tokens : 0;
  return static_cast<uint32_t>(std::min<uint64_t>(row_len + since, uint64_t{blocks.size()} * KVS_BLOCK_TOKENS));
}

absl::StatusOr<SequenceTable> SequenceTable::Open(std::span<const std::byte> chunk, uint64_t offset, uint32_t units) {
  if (!Lies(offset, sizeof(kvs_sequence_table), chunk.size(), KVS_ALIGNMENT)) {
    return absl::InternalError(
        absl::StrCat("the sidecar put a table at byte ", offset, " of a chunk of ", chunk.size()));
  }
  SequenceTable table;
  table.table_ = chunk.data() + offset;
  table.units_ = units;
  const auto* header = reinterpret_cast<const kvs_sequence_table*>(table.table_);
  table.row_capacity_ = Load(header->row_capacity);
  if (header->magic != KVS_SHM_MAGIC || header->units != units || table.row_capacity_ > (1u << 30) ||
      header->row_stride != kvs_row_stride(table.row_capacity_) || header->rows_offset != kvs_rows_offset(units) ||
      kvs_table_bytes(units, table.row_capacity_) > chunk.size() - offset) {
    return absl::InternalError(absl::StrCat("the sidecar's table at byte ", offset, " is not one of ", units,
                                            " units in a chunk of ", chunk.size(), " bytes (magic ", header->magic,
                                            ", units ", header->units, ", row_capacity ", table.row_capacity_, ")"));
  }
  return table;
}

SequenceTable::Row SequenceTable::Current(uint32_t unit) const {
  const auto* table = reinterpret_cast<const kvs_sequence_table*>(table_);
  const uint64_t word = __atomic_load_n(kvs_unit_word(table, unit), __ATOMIC_ACQUIRE);
  // As kvs_row_slot, by the numbers that were checked.
  const auto* slot = reinterpret_cast<const kvs_row*>(
      table_ + kvs_rows_offset(units_) + (2 * uint64_t{unit} + (word & 1)) * kvs_row_stride(row_capacity_));
  Row row;
  row.blocks = {slot->block, std::min(Load(slot->blocks), row_capacity_)};
  row.row_len =
      static_cast<uint32_t>(std::min<uint64_t>(Load(slot->row_len), uint64_t{row.blocks.size()} * KVS_BLOCK_TOKENS));
  row.base_tokens = Load(slot->base_tokens);
  return row;
}

absl::StatusOr<const kvs_plan*> OpenPlan(std::span<const std::byte> region, uint64_t offset, uint64_t bytes,
                                         uint64_t sequence, std::span<const uint32_t> lengths,
                                         std::span<const uint32_t> kept) {
  const auto wrong = [&](const std::string& why) {
    return absl::InternalError(absl::StrCat("the sidecar's plan at byte ", offset, " of the plan region ", why));
  };
  const uint64_t units = lengths.size();
  const uint64_t fixed = sizeof(kvs_plan) + units * sizeof(kvs_unit_plan);
  if (!Lies(offset, bytes, region.size(), KVS_ALIGNMENT) || bytes < fixed) {
    return wrong(absl::StrCat("has ", bytes, " bytes, which do not lie in the region of ", region.size(),
                              " or do not hold ", units, " units"));
  }
  const auto* plan = reinterpret_cast<const kvs_plan*>(region.data() + offset);
  if (plan->magic != KVS_SHM_MAGIC || plan->units != units || plan->sequence != sequence || plan->bytes < fixed ||
      plan->bytes > bytes) {
    return wrong(absl::StrCat("is not that of sequence ", sequence));
  }
  const auto* unit_plans = reinterpret_cast<const kvs_unit_plan*>(plan + 1);
  for (uint64_t u = 0; u < units; ++u) {
    const kvs_unit_plan unit = unit_plans[u];
    const uint64_t mask_bytes = (uint64_t{lengths[u]} + 63) / 64 * sizeof(uint64_t);
    if (unit.residents != lengths[u] || unit.kept != kept[u] ||
        !Lies(unit.mask_offset, mask_bytes, bytes, alignof(uint64_t)) ||
        !Lies(unit.indices_offset, uint64_t{kept[u]} * sizeof(uint32_t), bytes, alignof(uint32_t)) ||
        (unit.scores_offset != 0 &&
         !Lies(unit.scores_offset, uint64_t{lengths[u]} * sizeof(float), bytes, alignof(float)))) {
      return wrong(absl::StrCat("is wrong for unit ", u));
    }
  }
  return plan;
}

}  // namespace kvsteward
