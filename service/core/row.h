// A row of blocks as runs, in order of position: how it grows and shrinks at its end.
#pragma once

#include <cstdint>
#include <vector>

#include "base/run.h"

namespace kvsteward::core {

uint64_t CountBlocks(const std::vector<Run>& row);
// Appends a run; neighbours of the last one are merged into it.
void AppendRun(std::vector<Run>& row, Run run);
// Shortens the row to its first `count` blocks and returns what was cut off. REQUIRES: the row has that many.
std::vector<Run> CutRow(std::vector<Run>& row, uint64_t count);

}  // namespace kvsteward::core
