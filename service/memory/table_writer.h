// Writes sequences' tables into the table region, as kvsteward/shm.h describes them. Only the daemon can write there
// (tables are sealed against all other writers), so what it once wrote may be believed. Stateless; calls for one table
// come one at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "base/run.h"
#include "service/core/effects.h"
#include "service/core/types.h"

namespace kvsteward::memory {

// All of them: `chunk` is the table object that `place` names. OUT_OF_RANGE, and nothing is written, if the table or a
// row does not fit it; that is a mistake of the caller, never of a worker.

// Sets up a table whose rows are the units'.
absl::Status InitTable(std::span<std::byte> chunk, const core::TablePlace& place, const std::vector<core::Unit>& units);

// Puts blocks at the end of valid rows, in place. What lay at and behind `from` is forgotten.
absl::Status AppendRows(std::span<std::byte> chunk, const core::TablePlace& place,
                        const std::vector<core::AppendToRow>& rows);

// Rows that were cut at their end say so.
absl::Status TrimRows(std::span<std::byte> chunk, const core::TablePlace& place, const std::vector<core::RowEnd>& rows);

// Whether a table of `units` units was set up there.
bool HasTable(std::span<std::byte> chunk, const core::TablePlace& place, size_t units);

// Fills the unit's other row slot with a settled row and then makes it the valid one, in one store.
absl::Status PublishRow(std::span<std::byte> chunk, const core::TablePlace& place, uint32_t unit, int32_t kept,
                        int32_t base, std::span<const Run> row);

}  // namespace kvsteward::memory
