#include "service/core/row.h"

#include <cstddef>

namespace kvsteward::core {

uint64_t CountBlocks(const Row& row) {
  uint64_t count = 0;
  for (const Run& run : row) count += run.count;
  return count;
}

void AppendRun(Row& row, Run run) {
  if (!row.empty() && row.back().end() == run.first) {
    row.back().count += run.count;
  } else {
    row.push_back(run);
  }
}

Row CutRow(Row& row, uint64_t count) {
  size_t kept = 0;  // runs
  while (kept < row.size() && row[kept].count <= count) count -= row[kept++].count;
  Row cut(row.begin() + static_cast<std::ptrdiff_t>(kept), row.end());
  row.resize(kept);
  if (count > 0) {  // the first run cut off goes in two
    const auto head = static_cast<uint32_t>(count);
    row.push_back({cut.front().first, head});
    cut.front() = {cut.front().first + head, cut.front().count - head};
  }
  return cut;
}

}  // namespace kvsteward::core
