#include "client/worker/arena.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "base/run.h"
#include "client/worker/evaluation.h"
#include "kvsteward/shm.h"

namespace kvsteward::worker {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kCudaGranule = 2 << 20;

uint64_t RoundUp(uint64_t number, uint64_t step) { return (number + step - 1) / step * step; }

uint64_t PlanBytes(const ModelConfig& config, const Task& task) {
  const uint64_t mask = kvs_align(RoundUp(task.prompt_tokens, 64) / 8);
  const uint64_t indices = kvs_align(uint64_t{task.prompt_tokens} * sizeof(uint32_t));
  return sizeof(kvs_region_header) + sizeof(kvs_plan) + kvs_align(config.units() * sizeof(kvs_unit_plan)) +
         config.units() * (mask + indices);
}

// The longest row, in blocks, of which every unit can have one out of `surplus` blocks. The sidecar keeps `row` blocks
// free already; for a longer row it keeps as many as that has.
uint64_t BusyRow(uint64_t surplus, uint64_t row, uint64_t units) {
  const uint64_t fitting = surplus / units;
  return fitting <= row ? fitting : (surplus + row) / (units + 1);
}

}  // namespace

DemoArena ArenaFor(const ModelConfig& config, const Task& task, Device device) {
  const uint64_t granule = device == Device::kCuda ? kCudaGranule : kPage;
  const uint64_t block_bytes = uint64_t{kBlockTokens} * 2 * config.head_dim * sizeof(float);
  const uint64_t row = BlocksFor(Evaluation::MaxTokens(task));
  const uint64_t full = row * config.units();
  // The sidecar keeps as many blocks free as the longest row has, to compact into.
  const uint64_t blocks = full + full / 2 + row;

  DemoArena arena;
  arena.extent_bytes = RoundUp(std::max<uint64_t>(64 << 10, block_bytes), std::lcm(block_bytes, granule));
  const uint64_t extent_blocks = arena.extent_bytes / block_bytes;
  constexpr uint64_t kTokenBytes = 12;  // kept beside every token: its position, its value's norm, its running score
  const uint64_t beside = RoundUp(extent_blocks * kBlockTokens * kTokenBytes, kPage);
  const uint64_t extents = (blocks + extent_blocks - 1) / extent_blocks;
  const uint64_t busy_row = BusyRow(extents * extent_blocks - blocks, row, config.units());
  arena.busy_tokens = static_cast<uint32_t>(busy_row * kBlockTokens);

  const uint64_t table = kvs_table_bytes(config.units(), static_cast<uint32_t>(row));
  const uint64_t busy_table = kvs_table_bytes(config.units(), static_cast<uint32_t>(busy_row));
  arena.table_chunk_bytes = RoundUp(kPage + (Evaluation::kWindowSlots + 1) * table + busy_table, kPage);
  const uint64_t slot = uint64_t{config.layers} * config.query_width() * kWindowRows * sizeof(float);
  const uint64_t statistics = KVS_WINDOWS_OFFSET + Evaluation::kWindowSlots * kvs_align(slot);
  arena.plan_bytes = PlanBytes(config, task);
  const uint64_t regions = RoundUp(statistics, kPage) + arena.table_chunk_bytes + RoundUp(arena.plan_bytes, kPage);
  arena.bytes = extents * (arena.extent_bytes + beside) + regions;
  return arena;
}

std::string ArenaYaml(const DemoArena& arena) {
  return absl::StrCat("arena:\n  bytes: ", arena.bytes, "\n  extent_bytes: ", arena.extent_bytes,
                      "\n  table_chunk_bytes: ", arena.table_chunk_bytes, "\n");
}

}  // namespace kvsteward::worker
