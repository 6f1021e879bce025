// What compaction and publishing must do, as a naive loop on the host, and random sequences to do it to.
#pragma once

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "client/include/kvsteward/shm.h"
#include "kvsteward/engine/tensor.h"
#include "tests/gpu/check.h"

namespace kvsteward::gpu_test {

using engine::kBlockTokens;

enum class Keep { kNone, kFirst, kLast, kAll, kTenth, kHalf, kHoles };

struct Unit {
  int32_t length = 0;
  Keep keep = Keep::kTenth;
  bool moves = true;
};

struct Case {
  std::string name;
  size_t token_bytes = 256;
  std::vector<Unit> units;
  size_t misalign = 0;  // bytes by which pool.data misses an aligned address
  bool sides = true;    // whether there are norms and running scores
};

// A pool's contents, on the host. Side arrays as bits, so that NaNs compare.
struct Pool {
  size_t token_bytes;
  std::vector<std::byte> data;
  std::vector<int32_t> positions;
  std::vector<uint32_t> norms;
  std::vector<uint32_t> running;

  std::byte* Key(uint64_t block, int64_t slot) {
    return data.data() + block * 2 * kBlockTokens * token_bytes + static_cast<size_t>(slot) * token_bytes;
  }
  std::byte* Value(uint64_t block, int64_t slot) { return Key(block, slot) + kBlockTokens * token_bytes; }
};

template <class T>
void Fill(Random& random, std::vector<T>& values) {
  uint64_t bits = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    if (i * sizeof(T) % 8 == 0) bits = random.Next();
    values[i] = static_cast<T>(bits);
    bits >>= sizeof(T) < 8 ? 8 * sizeof(T) : 0;
  }
}

inline uint32_t BlocksOf(int64_t tokens) { return static_cast<uint32_t>((tokens + kBlockTokens - 1) / kBlockTokens); }

inline std::vector<int32_t> KeptOf(Random& random, const Unit& unit) {
  std::vector<int32_t> kept;
  for (int32_t j = 0; j < unit.length; ++j) {
    const bool stays = unit.keep == Keep::kAll || (unit.keep == Keep::kFirst && j == 0) ||
                       (unit.keep == Keep::kLast && j + 1 == unit.length) ||
                       (unit.keep == Keep::kTenth && random.Below(10) == 0) ||
                       (unit.keep == Keep::kHalf && random.Below(2) == 0) ||
                       (unit.keep == Keep::kHoles && j / kBlockTokens % 3 != 1 && j % 5 != 0);
    if (stays) kept.push_back(j);
  }
  return kept;
}

// One sequence with everything the kernels are told, on the host.
struct Sequence {
  std::vector<uint32_t> blocks, to;
  std::vector<int32_t> length, stored, appended, normed, scored, wave, kept, kept_count;
  std::vector<int64_t> offset{0};
  int32_t block_stride = 0, to_stride = 0, longest = 0, most_kept = 0;
  uint32_t pool_blocks = 0;
};

inline Sequence MakeSequence(Random& random, const Case& c) {
  Sequence s;
  std::vector<std::vector<int32_t>> kept;
  for (size_t u = 0; u < c.units.size(); ++u) {
    const Unit& unit = c.units[u];
    const auto up_to_length = [&] {
      return static_cast<int32_t>(random.Below(static_cast<uint64_t>(unit.length) + 1));
    };
    s.length.push_back(unit.length);
    s.stored.push_back(u % 3 == 0 ? 0 : u % 3 == 1 ? unit.length : up_to_length());
    s.appended.push_back(static_cast<int32_t>(random.Below(1 << 30)));
    s.normed.push_back(!c.sides ? 0 : u % 4 == 0 ? unit.length : up_to_length());
    s.scored.push_back(!c.sides || u % 4 == 2 ? 0 : u % 4 == 1 ? unit.length : up_to_length());
    s.offset.push_back(s.offset.back() + unit.length);
    s.longest = std::max(s.longest, unit.length);
    kept.push_back(KeptOf(random, unit));
    s.kept_count.push_back(static_cast<int32_t>(kept.back().size()));
    if (!unit.moves) continue;
    s.wave.push_back(static_cast<int32_t>(u));
    s.most_kept = std::max(s.most_kept, s.kept_count.back());
  }
  // Kept lists as a selection leaves them: unit u's begins at offset[u], with rubbish behind it.
  s.kept.assign(static_cast<size_t>(s.offset.back()), 0x7fffffff);
  for (size_t u = 0; u < kept.size(); ++u) std::copy(kept[u].begin(), kept[u].end(), s.kept.begin() + s.offset[u]);

  s.block_stride = static_cast<int32_t>(BlocksOf(s.longest)) + 1;
  s.to_stride = static_cast<int32_t>(BlocksOf(s.most_kept)) + 2;
  // Blocks in random order, a few in no row at all; entries behind a row's end must never be followed.
  uint32_t used = 0;
  for (const Unit& unit : c.units) used += 2 * BlocksOf(unit.length);
  s.pool_blocks = used + 5;
  std::vector<uint32_t> order(s.pool_blocks);
  std::iota(order.begin(), order.end(), 0u);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.Below(i)]);
  s.blocks.assign(c.units.size() * static_cast<size_t>(s.block_stride), 0xffffffffu);
  s.to.assign(std::max<size_t>(1, s.wave.size()) * static_cast<size_t>(s.to_stride), 0xffffffffu);
  size_t next = 0;
  for (size_t u = 0; u < c.units.size(); ++u) {
    for (uint32_t k = 0; k < BlocksOf(s.length[u]); ++k) s.blocks[u * s.block_stride + k] = order[next++];
  }
  for (size_t i = 0; i < s.wave.size(); ++i) {
    for (uint32_t k = 0; k < BlocksOf(s.kept_count[s.wave[i]]); ++k) s.to[i * s.to_stride + k] = order[next++];
  }
  return s;
}

inline void CompactOnHost(const Sequence& s, Pool& pool) {
  Pool before = pool;
  for (size_t i = 0; i < s.wave.size(); ++i) {
    const auto u = static_cast<size_t>(s.wave[i]);
    for (int32_t k = 0; k < s.kept_count[u]; ++k) {
      const int32_t token = s.kept[static_cast<size_t>(s.offset[u] + k)];
      const uint64_t source = s.blocks[u * s.block_stride + token / kBlockTokens];
      const uint64_t target = s.to[i * s.to_stride + k / kBlockTokens];
      std::memcpy(pool.Key(target, k % kBlockTokens), before.Key(source, token % kBlockTokens), pool.token_bytes);
      std::memcpy(pool.Value(target, k % kBlockTokens), before.Value(source, token % kBlockTokens), pool.token_bytes);
      const size_t a = source * kBlockTokens + token % kBlockTokens;
      const size_t b = target * kBlockTokens + k % kBlockTokens;
      pool.positions[b] = token < s.stored[u] ? before.positions[a] : s.appended[u] + (token - s.stored[u]);
      if (token < s.normed[u]) pool.norms[b] = before.norms[a];
      if (token < s.scored[u]) pool.running[b] = before.running[a];
    }
  }
}

// The table's bytes: as the daemon's PublishRow leaves them.
inline void PublishOnHost(const Sequence& s, std::byte* table, uint32_t row_capacity, int32_t base) {
  const auto units = static_cast<uint32_t>(s.length.size());
  for (size_t i = 0; i < s.wave.size(); ++i) {
    const auto u = static_cast<uint32_t>(s.wave[i]);
    uint64_t word;
    std::byte* const at = table + sizeof(kvs_sequence_table) + u * sizeof(word);
    std::memcpy(&word, at, sizeof(word));
    const uint64_t other = 1 - word % 2;
    const uint32_t blocks = BlocksOf(s.kept_count[u]);
    std::vector<uint32_t> row = {static_cast<uint32_t>(s.kept_count[u]), static_cast<uint32_t>(base), blocks, 0};
    row.insert(row.end(), s.to.begin() + i * s.to_stride, s.to.begin() + i * s.to_stride + blocks);
    std::memcpy(table + kvs_rows_offset(units) + (2 * u + other) * kvs_row_stride(row_capacity), row.data(),
                row.size() * sizeof(uint32_t));
    word = word / 2 * 2 + 2 + other;
    std::memcpy(at, &word, sizeof(word));
  }
}

}  // namespace kvsteward::gpu_test
