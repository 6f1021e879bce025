// The whole daemon but gRPC and sockets: core, memory, the device with the host engine, and the loop between them. And
// what workers write and tests expect of it.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "service/device/device.h"
#include "service/memory/host_backend.h"
#include "service/memory/memory.h"
#include "tests/steward/worker.h"

namespace kvsteward::steward {

inline constexpr uint64_t kArenaBytes = 8 << 20;

inline core::Config TestConfig() {
  core::Config config;
  config.arena_bytes = kArenaBytes;
  config.extent_bytes = 1 << 16;
  config.table_chunk_bytes = 1 << 14;
  const auto policy = std::make_shared<engine::Policy>(*engine::Preset("ahakv-ada"));
  config.tenants = {{"a", kArenaBytes, policy}, {"b", kArenaBytes, policy}};
  return config;
}

class StewardTest : public testing::Test {
 protected:
  StewardTest() {
    setenv("KVSTEWARD_CHECK", "1", 1);  // the books are checked after every event
    steward_.set_socket_port(&port_);
    steward_.set_on_drained([this] { drained_.Open(); });
    steward_.Start();
  }

  core::StatusReply Status() { return MustAsk<core::StatusReply>(steward_, core::StatusAsked{}); }
  // Waits for the end of what memory's thread still has to do.
  void WaitUntilAllIsFree() {
    while (Status().ledger.free != kArenaBytes) std::this_thread::yield();
  }

  // K and V of token `position` of a unit, different for all of them. Keys are small, so that queries decide.
  static float KeyAt(core::SequenceId sequence, uint32_t unit, int32_t position, uint32_t element) {
    uint64_t hash = ((sequence * 64 + unit) * 4096 + static_cast<uint64_t>(position)) * 16 + element + 1;
    hash = (hash ^ hash >> 30) * 0xbf58476d1ce4e5b9u;
    hash = (hash ^ hash >> 27) * 0x94d049bb133111ebu;
    return static_cast<float>((hash ^ hash >> 31) % 2001) / 1000.0f - 1.0f;
  }
  static void WriteTokens(const Worker& worker, core::SequenceId sequence, int32_t from, int32_t to) {
    for (uint32_t u = 0; u < Worker::kUnits; ++u) {
      const kvs_row* const row = worker.row(sequence, u);
      for (int32_t position = from; position < to; ++position) {
        const uint32_t resident = row->row_len + static_cast<uint32_t>(position) - row->base_tokens;
        float* const key = worker.token(sequence, u, resident);
        for (uint32_t e = 0; e < 16; ++e) {
          key[e] = KeyAt(sequence, u, position, e);
          key[256 + e] = KeyAt(sequence, u, position, e) + 0.5f;
        }
      }
    }
  }
  // Whether a unit's residents, as the worker sees them, are these tokens, and untouched.
  static bool Holds(const Worker& worker, core::SequenceId sequence, uint32_t unit,
                    const std::vector<int32_t>& positions) {
    for (uint32_t j = 0; j < positions.size(); ++j) {
      const float* const key = worker.token(sequence, unit, j);
      for (uint32_t e = 0; e < 16; ++e) {
        if (key[e] != KeyAt(sequence, unit, positions[j], e)) return false;
        if (key[256 + e] != KeyAt(sequence, unit, positions[j], e) + 0.5f) return false;
      }
    }
    return true;
  }
  static void WriteQueries(const Worker& worker) {
    std::mt19937 random(7);
    for (uint64_t i = 0; i < Worker::kSlotBytes / sizeof(float); ++i) {
      worker.queries(1)[i] = static_cast<float>(random() % 2001) / 500.0f - 2.0f;
    }
  }
  // What the exported plan keeps of a unit whose residents were at `positions`.
  static std::vector<int32_t> KeptPositions(const Worker& worker, const core::EvictResult& result, uint32_t unit,
                                            const std::vector<int32_t>& positions) {
    const kvs_plan* const plan = worker.plan(result);
    const kvs_unit_plan& unit_plan = reinterpret_cast<const kvs_unit_plan*>(plan + 1)[unit];
    const auto* const indices =
        reinterpret_cast<const uint32_t*>(reinterpret_cast<const std::byte*>(plan) + unit_plan.indices_offset);
    EXPECT_EQ(unit_plan.residents, positions.size());
    std::vector<int32_t> kept;
    for (uint32_t i = 0; i < unit_plan.kept; ++i) kept.push_back(positions[indices[i]]);
    return kept;
  }
  // Fills every block that is in none of the sequence's rows with NaN.
  static void PoisonFreeBlocks(const Worker& worker, core::SequenceId sequence) {
    std::set<uint32_t> used;
    for (uint32_t u = 0; u < Worker::kUnits; ++u) {
      const kvs_row* const row = worker.row(sequence, u);
      used.insert(row->block, row->block + row->blocks);
    }
    for (uint32_t b = 0; b < worker.blocks(); ++b) {
      if (!used.contains(b)) std::fill_n(worker.block(b), 512, std::numeric_limits<float>::quiet_NaN());
    }
  }
  static std::vector<int32_t> Range(int32_t from, int32_t to) {
    std::vector<int32_t> positions;
    for (int32_t p = from; p < to; ++p) positions.push_back(p);
    return positions;
  }

  memory::Memory memory_{memory::NewHostBackend(), memory::NewHostBackend(), kArenaBytes};
  device::Device device_{engine::NewHostEngine(2)};
  FakeSocketPort port_;
  Gate drained_;
  Steward steward_{TestConfig(), memory_, device_};
};

}  // namespace kvsteward::steward
