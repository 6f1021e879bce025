// A lease's pool and one sequence in it, for tests of the device: what core and memory would have set up.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kvsteward/shm.h"
#include "service/core/core.h"
#include "service/core/effects.h"
#include "service/device/evict_spec.h"
#include "service/memory/host_backend.h"
#include "service/memory/lease_pool.h"
#include "service/memory/table_writer.h"

namespace kvsteward::device {

// Two layers of two kv heads, float32. K and V of every token are made of its unit and position.
class LeaseRig {
 public:
  static constexpr engine::Geometry kGeometry{
      .layers = 2, .query_heads = 4, .kv_heads = 2, .head_dim = 8, .dtype = engine::DType::kF32};
  static constexpr uint32_t kUnits = 4;
  static constexpr uint32_t kCapacity = 16;  // blocks of a row

  explicit LeaseRig(int32_t tokens) : tokens_(tokens) {
    const uint64_t extent = 256 * kGeometry.block_bytes();
    const uint64_t slot = uint64_t{2} * 4 * 8 * 8 * 4;
    const auto spec = std::make_shared<core::LeaseSpec>(core::LeaseSpec{.geometry = kGeometry,
                                                                        .window_rows = 8,
                                                                        .window_slots = 1,
                                                                        .window_slot_bytes = slot,
                                                                        .input_bytes = 2048,
                                                                        .ticket = {}});
    pool_ = std::make_shared<memory::LeasePool>(1, spec, extent);
    const auto backend = memory::NewHostBackend();
    const auto add = [&](core::ObjectKind kind, uint64_t bytes) {
      const core::Object object{.id = 0, .kind = kind, .index = 0, .bytes = bytes, .private_bytes = 0};
      EXPECT_TRUE(pool_->AddRegion(*backend, object).ok());
    };
    EXPECT_TRUE(pool_->AddExtent(*backend, {.bytes = extent}).ok());
    add(core::ObjectKind::kTables, 8192);
    add(core::ObjectKind::kStatistics, 8192);
    add(core::ObjectKind::kPlans, 65536);
    for (uint32_t u = 0; u < kUnits; ++u) {
      units_.push_back({.row = {{u * kCapacity, BlocksFor(static_cast<uint64_t>(tokens))}}, .kept = 0, .base = 0});
    }
    EXPECT_TRUE(memory::InitTable(Tables(), place_, units_).ok());
    for (uint32_t u = 0; u < kUnits; ++u) {
      for (int32_t j = 0; j < tokens; ++j) Write(u, j);
    }
  }

  std::shared_ptr<memory::LeasePool> pool() const { return pool_; }
  const kvs_sequence_table* table() const {
    return reinterpret_cast<const kvs_sequence_table*>(Tables().data() + place_.offset);
  }
  std::span<std::byte> Statistics() const { return pool_->Bytes(core::ObjectKind::kStatistics, 0); }
  std::span<std::byte> Inputs() const {
    return Statistics().subspan(pool_->spec().inputs_offset(), pool_->spec().input_bytes);
  }

  // Keeps the first four and the newest tokens.
  core::RunEvict Ask(core::JobId job, int64_t budget = 32) const {
    core::EvictSpec spec;
    spec.budget = {.kind = engine::Budget::Kind::kTokens, .amount = budget};
    core::RunEvict ask;
    ask.job = job;
    ask.lease = 1;
    ask.tenant = "a";
    ask.sequence = 9;
    ask.table = place_;
    ask.units = units_;
    ask.written_tokens = tokens_;
    ask.policy = Changed("streaming-llm", [](engine::Policy&) {});
    ask.spec = std::make_shared<core::EvictSpec>(spec);
    return ask;
  }
  // A preset with changes.
  template <class Change>
  static core::PolicyRef Changed(const std::string& preset, Change change) {
    auto policy = std::make_shared<engine::Policy>(*engine::Preset(preset));
    change(*policy);
    return policy;
  }
  // New rows of `blocks` blocks for units [first, end).
  static core::CompactUnits Wave(core::JobId job, uint32_t first, uint32_t end, uint32_t blocks) {
    core::CompactUnits wave{.job = job, .units = {}};
    for (uint32_t u = first; u < end; ++u) wave.units.push_back({.unit = u, .row = {{128 + u * kCapacity, blocks}}});
    return wave;
  }

  // What a worker sees: the first element of K and of V of resident j of the unit's valid row.
  float Key(uint32_t unit, uint32_t j) const { return Read(unit, j, 0); }
  float Value(uint32_t unit, uint32_t j) const { return Read(unit, j, kGeometry.block_bytes() / 2); }
  static float KeyOf(uint32_t unit, int32_t position) {
    return static_cast<float>(unit * 1000) + static_cast<float>(position);
  }
  uint64_t Word(uint32_t unit) const { return *kvs_unit_word(table(), unit); }

 private:
  std::span<std::byte> Tables() const { return pool_->Bytes(core::ObjectKind::kTables, 0); }
  void Write(uint32_t unit, int32_t position) {
    const uint32_t block = unit * kCapacity + static_cast<uint32_t>(position / 16);
    const size_t offset = static_cast<size_t>(position % 16) * kGeometry.token_bytes();
    const std::vector<float> key(8, KeyOf(unit, position));
    const std::vector<float> value(8, -KeyOf(unit, position));
    std::memcpy(pool_->View().keys(block) + offset, key.data(), kGeometry.token_bytes());
    std::memcpy(pool_->View().values(block) + offset, value.data(), kGeometry.token_bytes());
  }
  float Read(uint32_t unit, uint32_t j, size_t half) const {
    const uint32_t block = kvs_current_row(table(), unit)->block[j / 16];
    float element = 0;
    std::memcpy(&element, pool_->View().keys(block) + half + j % 16 * kGeometry.token_bytes(), sizeof(element));
    return element;
  }

  int32_t tokens_;
  std::shared_ptr<memory::LeasePool> pool_;
  core::TablePlace place_{.chunk = 0, .offset = 64, .row_capacity = kCapacity};
  std::vector<core::Unit> units_;
};

}  // namespace kvsteward::device
