// A row of blocks as runs, in order of position: how it grows and shrinks at its end.
#pragma once

#include <cstdint>

#include "service/core/types.h"

namespace kvsteward::core {

uint64_t CountBlocks(const Row& row);
// Appends a run; neighbours of the last one are merged into it.
void AppendRun(Row& row, Run run);
// Shortens the row to its first `count` blocks and returns what was cut off. REQUIRES: the row has that many.
Row CutRow(Row& row, uint64_t count);

}  // namespace kvsteward::core
