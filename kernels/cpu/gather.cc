// Copying scattered tokens, compiled for several instruction sets.
#include "kernels/cpu/gather.h"

#include <algorithm>
#include <cstring>

#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_AVX3_DL)  // as in tiles.cc
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/gather.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace kvsteward::engine::cpu::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

constexpr size_t kLine = 64;  // bytes of a cache line
constexpr size_t kAhead = 8;  // tokens between a prefetch and the copy: most lie on two pages of their own

// A call of memcpy per token would be felt.
void CopyToken(const std::byte* from, std::byte* to, size_t bytes, const std::byte* next) {
  const hn::CappedTag<uint8_t, kLine> d;
  const size_t lanes = hn::Lanes(d);
  size_t at = 0;
  for (; at + lanes <= bytes; at += lanes) {
    if (at % kLine == 0) __builtin_prefetch(next + at, 0, 0);
    hn::StoreU(hn::LoadU(d, reinterpret_cast<const uint8_t*>(from + at)), d, reinterpret_cast<uint8_t*>(to + at));
  }
  if (at == bytes) return;
  __builtin_prefetch(next + at, 0, 0);
  std::memcpy(to + at, from + at, bytes - at);
}

void Gather(const PoolView& pool, size_t token_bytes, std::span<const Kept> kept, std::span<const Run> to) {
  const size_t half = pool.block_bytes / 2;  // from a token's key to its value
  const auto key = [&](size_t i) { return pool.keys(kept[i].block) + kept[i].slot() * token_bytes; };
  ForEachBlock(to, kept.size(), [&](size_t first, size_t count, uint32_t block) {
    for (size_t i = 0; i < count; ++i) {
      const std::byte* const next = key(std::min(first + i + kAhead, kept.size() - 1));
      const std::byte* const from = key(first + i);
      std::byte* const out = pool.keys(block) + i * token_bytes;
      CopyToken(from, out, token_bytes, next);
      CopyToken(from + half, out + half, token_bytes, next + half);
    }
  });
}

}  // namespace
}  // namespace kvsteward::engine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvsteward::engine::cpu {
namespace {
HWY_EXPORT(Gather);
}  // namespace

void GatherTokens(const PoolView& pool, size_t token_bytes, std::span<const Kept> kept, std::span<const Run> to) {
  HWY_DYNAMIC_DISPATCH(Gather)(pool, token_bytes, kept, to);
}

}  // namespace kvsteward::engine::cpu
#endif
