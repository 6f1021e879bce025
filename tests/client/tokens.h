// Keys and values that tell which token they belong to, for workers in tests: what is written into a sequence, and
// whether it is still there after evictions.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "kvsteward/client.h"

namespace kvsteward::testing {

// A sequence of f32 keys and values of which each unit knows what tokens are resident.
class Tokens {
 public:
  // REQUIRES: the sequence is new; both outlive this.
  Tokens(Sequence& sequence, const ModelGeometry& geometry, uint32_t seed)
      : sequence_(sequence), geometry_(geometry), seed_(seed), resident_(geometry.units()) {}

  // Writes tokens up to `tokens` seen; there must be room.
  void WriteUpTo(uint32_t tokens) {
    const uint32_t before = sequence_.written();
    for (uint32_t unit = 0; unit < geometry_.units(); ++unit) {
      for (uint32_t token = before; token < tokens; ++token) {
        const auto slot = static_cast<uint32_t>(resident_[unit].size());
        ASSERT_NE(sequence_.Key(unit, slot), nullptr) << "unit " << unit << " slot " << slot;
        Fill(sequence_.Key(unit, slot), unit, token, 0);
        Fill(sequence_.Value(unit, slot), unit, token, 1);
        resident_[unit].push_back(token);
      }
    }
    ASSERT_TRUE(sequence_.Wrote(tokens).ok());
  }

  // The newest tokens were taken back.
  void Truncated(uint32_t tokens) {
    for (std::vector<uint32_t>& tokens_of_unit : resident_)
      std::erase_if(tokens_of_unit, [&](uint32_t t) { return t >= tokens; });
  }

  // The blocks that the sequence has.
  std::set<uint32_t> Blocks() const {
    std::set<uint32_t> blocks;
    for (uint32_t unit = 0; unit < geometry_.units(); ++unit) {
      for (const uint32_t block : sequence_.Row(unit)) blocks.insert(block);
    }
    return blocks;
  }

  // Takes note of an eviction by its plan, and fills the blocks that it freed (`before` has all) with NaN: nothing that
  // was kept may lie there.
  void Evicted(const kvsteward::Evicted& evicted, const std::set<uint32_t>& before, uint64_t block_bytes) {
    ASSERT_NE(evicted.plan, nullptr);
    const auto* base = reinterpret_cast<const std::byte*>(evicted.plan);
    for (uint32_t unit = 0; unit < geometry_.units(); ++unit) {
      const kvs_unit_plan& plan = *kvs_unit_plan_of(evicted.plan, unit);
      const auto* indices = reinterpret_cast<const uint32_t*>(base + plan.indices_offset);
      const auto* mask = reinterpret_cast<const uint64_t*>(base + plan.mask_offset);
      ASSERT_EQ(plan.residents, resident_[unit].size());
      std::vector<uint32_t> kept;
      for (uint32_t i = 0; i < plan.kept; ++i) {
        ASSERT_LT(indices[i], plan.residents);
        EXPECT_EQ(mask[indices[i] / 64] >> (indices[i] % 64) & 1, 1u);
        kept.push_back(resident_[unit][indices[i]]);
      }
      resident_[unit] = kept;
    }
    const std::set<uint32_t> after = Blocks();
    for (const uint32_t block : before) {
      if (after.contains(block)) continue;
      const float nan = std::numeric_limits<float>::quiet_NaN();
      for (uint64_t at = 0; at < block_bytes; at += sizeof(float)) {
        std::memcpy(sequence_.Block(block) + at, &nan, sizeof(nan));
      }
    }
  }

  // Every resident is where the table says, unchanged.
  void Check() const {
    for (uint32_t unit = 0; unit < geometry_.units(); ++unit) {
      ASSERT_EQ(sequence_.Residents(unit), resident_[unit].size()) << "unit " << unit;
      for (uint32_t slot = 0; slot < resident_[unit].size(); ++slot) {
        const uint32_t token = resident_[unit][slot];
        ASSERT_TRUE(Holds(sequence_.Key(unit, slot), unit, token, 0)) << "unit " << unit << " token " << token;
        ASSERT_TRUE(Holds(sequence_.Value(unit, slot), unit, token, 1)) << "unit " << unit << " token " << token;
      }
    }
  }

  // After an eviction that may have been cut short at any point: every unit holds either all of its tokens or some of
  // them, in order and unchanged. The number of units that have changed.
  uint32_t CheckOldOrNew() const {
    uint32_t changed = 0;
    for (uint32_t unit = 0; unit < geometry_.units(); ++unit) {
      const uint32_t residents = sequence_.Residents(unit);
      changed += residents != resident_[unit].size();
      auto token = resident_[unit].begin();
      for (uint32_t slot = 0; slot < residents; ++slot, ++token) {
        while (token != resident_[unit].end() && !Holds(sequence_.Key(unit, slot), unit, *token, 0)) ++token;
        if (token == resident_[unit].end() || !Holds(sequence_.Value(unit, slot), unit, *token, 1)) {
          ADD_FAILURE() << "unit " << unit << " slot " << slot << " of " << residents << " is not one of its tokens";
          return changed;
        }
      }
    }
    return changed;
  }

 private:
  // Numbers between -1 and 1 that differ from token to token.
  float Number(uint32_t unit, uint32_t token, uint32_t which, uint32_t i) const {
    uint64_t x = ((uint64_t{seed_} * 1024 + unit) * (1u << 20) + token) * 4096 + which * 2048 + i;
    x = (x ^ (x >> 31)) * 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 29)) * 0xbf58476d1ce4e5b9u;
    return static_cast<float>(static_cast<int32_t>(x >> 40) - (1 << 23)) / static_cast<float>(1 << 23);
  }
  void Fill(std::byte* to, uint32_t unit, uint32_t token, uint32_t which) const {
    for (uint32_t i = 0; i < geometry_.head_dim; ++i) {
      const float number = Number(unit, token, which, i);
      std::memcpy(to + i * sizeof(float), &number, sizeof(number));
    }
  }
  bool Holds(const std::byte* at, uint32_t unit, uint32_t token, uint32_t which) const {
    std::vector<std::byte> wanted(geometry_.head_dim * sizeof(float));
    Fill(wanted.data(), unit, token, which);
    return at != nullptr && std::memcmp(at, wanted.data(), wanted.size()) == 0;
  }

  Sequence& sequence_;
  const ModelGeometry geometry_;
  const uint32_t seed_;
  std::vector<std::vector<uint32_t>> resident_;  // [units] tokens, in order
};

// Fills a window slot with queries; REQUIRES: f32.
inline void FillWindow(std::byte* slot, const ModelGeometry& geometry, uint32_t rows) {
  const uint64_t numbers = uint64_t{geometry.layers} * geometry.query_heads * rows * geometry.head_dim;
  for (uint64_t i = 0; i < numbers; ++i) {
    const float number = std::sin(static_cast<float>(i % 9973));
    std::memcpy(slot + i * sizeof(float), &number, sizeof(number));
  }
}

}  // namespace kvsteward::testing
