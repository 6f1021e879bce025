#include "service/memory/table_writer.h"

#include <atomic>
#include <numeric>
#include <string>

#include "kvsteward/shm.h"

namespace kvsteward::memory {
namespace {

uint64_t BlocksOf(std::span<const Run> row) {
  uint64_t blocks = 0;
  for (const Run& run : row) blocks += run.count;
  return blocks;
}

absl::Status OutOfRange(const core::TablePlace& place, const std::string& why) {
  return absl::OutOfRangeError("the table at offset " + std::to_string(place.offset) + " of chunk " +
                               std::to_string(place.chunk) + " " + why);
}

// A table in the daemon's own mapping.
class Table {
 public:
  Table(std::span<std::byte> chunk, const core::TablePlace& place) : chunk_(chunk), place_(place) {}

  // Whether a table of so many units fits the chunk.
  absl::Status CheckPlace(uint64_t units) const {
    uint64_t rows_bytes = 0;
    uint64_t end = 0;
    const bool overflow =
        __builtin_mul_overflow(2 * units, kvs_row_stride(place_.row_capacity), &rows_bytes) ||
        __builtin_add_overflow(rows_bytes, sizeof(kvs_sequence_table) + kvs_align(units * sizeof(uint64_t)), &end) ||
        __builtin_add_overflow(end, place_.offset, &end);
    if (overflow || units > UINT32_MAX || end > chunk_.size() || place_.offset % KVS_ALIGNMENT != 0 ||
        place_.offset < sizeof(kvs_region_header)) {
      return OutOfRange(place_, "does not fit its chunk of " + std::to_string(chunk_.size()) + " bytes");
    }
    return absl::OkStatus();
  }
  // Whether the table was set up here and has this unit.
  absl::Status CheckUnit(uint32_t unit) const {
    if (absl::Status status = CheckPlace(1); !status.ok()) return status;
    if (header()->magic != KVS_SHM_MAGIC || header()->row_capacity != place_.row_capacity) {
      return OutOfRange(place_, "was never set up");
    }
    if (unit >= header()->units) return OutOfRange(place_, "has no unit " + std::to_string(unit));
    return CheckPlace(header()->units);
  }
  absl::Status CheckRow(uint64_t blocks) const {
    if (blocks > place_.row_capacity) {
      return OutOfRange(place_, "has rows of " + std::to_string(place_.row_capacity) + " blocks; a row of " +
                                    std::to_string(blocks) + " does not fit");
    }
    return absl::OkStatus();
  }

  kvs_sequence_table* header() const { return reinterpret_cast<kvs_sequence_table*>(chunk_.data() + place_.offset); }
  std::atomic_ref<uint64_t> word(uint32_t unit) const {
    return std::atomic_ref<uint64_t>(*const_cast<uint64_t*>(kvs_unit_word(header(), unit)));
  }
  kvs_row* row_slot(uint32_t unit, uint64_t slot) const {
    return const_cast<kvs_row*>(kvs_row_slot(header(), unit, static_cast<uint32_t>(slot)));
  }

 private:
  std::span<std::byte> chunk_;
  const core::TablePlace& place_;
};

// The entries first, then how many there are.
void WriteBlocks(kvs_row* row, uint32_t from, std::span<const Run> blocks) {
  uint32_t* entry = row->block + from;
  for (const Run run : blocks) {
    std::iota(entry, entry + run.count, run.first);
    entry += run.count;
  }
  const auto end = static_cast<uint32_t>(entry - row->block);
  std::atomic_ref<uint32_t>(row->blocks).store(end, std::memory_order_release);
}

void WriteRow(kvs_row* row, int32_t kept, int32_t base, std::span<const Run> blocks) {
  row->row_len = static_cast<uint32_t>(kept);
  row->base_tokens = static_cast<uint32_t>(base);
  row->reserved = 0;
  WriteBlocks(row, 0, blocks);
}

}  // namespace

absl::Status InitTable(std::span<std::byte> chunk, const core::TablePlace& place,
                       const std::vector<core::Unit>& units) {
  const Table table(chunk, place);
  if (absl::Status status = table.CheckPlace(units.size()); !status.ok()) return status;
  for (const core::Unit& unit : units) {
    if (absl::Status status = table.CheckRow(BlocksOf(unit.row)); !status.ok()) return status;
  }
  const auto count = static_cast<uint32_t>(units.size());
  *table.header() = {.magic = KVS_SHM_MAGIC,
                     .units = count,
                     .row_capacity = place.row_capacity,
                     .reserved0 = 0,
                     .row_stride = kvs_row_stride(place.row_capacity),
                     .rows_offset = kvs_rows_offset(count),
                     .reserved = {}};
  for (uint32_t u = 0; u < count; ++u) {
    WriteRow(table.row_slot(u, 0), units[u].kept, units[u].base, units[u].row);
    table.word(u).store(0, std::memory_order_release);
  }
  return absl::OkStatus();
}

absl::Status AppendRows(std::span<std::byte> chunk, const core::TablePlace& place,
                        const std::vector<core::AppendToRow>& rows) {
  const Table table(chunk, place);
  for (const core::AppendToRow& append : rows) {
    if (absl::Status status = table.CheckUnit(append.unit); !status.ok()) return status;
    if (absl::Status status = table.CheckRow(append.from + BlocksOf(append.blocks)); !status.ok()) return status;
  }
  for (const core::AppendToRow& append : rows) {
    const uint64_t word = table.word(append.unit).load(std::memory_order_relaxed);
    WriteBlocks(table.row_slot(append.unit, word & 1), append.from, append.blocks);
  }
  return absl::OkStatus();
}

absl::Status TrimRows(std::span<std::byte> chunk, const core::TablePlace& place,
                      const std::vector<core::RowEnd>& rows) {
  const Table table(chunk, place);
  for (const core::RowEnd& end : rows) {
    if (absl::Status status = table.CheckUnit(end.unit); !status.ok()) return status;
    if (absl::Status status = table.CheckRow(end.blocks); !status.ok()) return status;
  }
  for (const core::RowEnd& end : rows) {
    const uint64_t word = table.word(end.unit).load(std::memory_order_relaxed);
    WriteBlocks(table.row_slot(end.unit, word & 1), end.blocks, {});
  }
  return absl::OkStatus();
}

bool HasTable(std::span<std::byte> chunk, const core::TablePlace& place, size_t units) {
  const Table table(chunk, place);
  return units > 0 && table.CheckUnit(static_cast<uint32_t>(units - 1)).ok() && table.header()->units == units;
}

absl::Status PublishRow(std::span<std::byte> chunk, const core::TablePlace& place, uint32_t unit, int32_t kept,
                        int32_t base, std::span<const Run> row) {
  const Table table(chunk, place);
  if (absl::Status status = table.CheckUnit(unit); !status.ok()) return status;
  if (absl::Status status = table.CheckRow(BlocksOf(row)); !status.ok()) return status;
  const uint64_t word = table.word(unit).load(std::memory_order_relaxed);
  const uint64_t other = ~word & 1;
  WriteRow(table.row_slot(unit, other), kept, base, row);
  // The version is all bits but the lowest; the lowest is the slot.
  table.word(unit).store((((word >> 1) + 1) << 1) | other, std::memory_order_release);
  return absl::OkStatus();
}

}  // namespace kvsteward::memory
