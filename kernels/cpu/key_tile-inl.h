// From keys in blocks to one transposed tile: part of tiles.cc, compiled once per instruction set with it.
#if defined(KVSTEWARD_KERNELS_CPU_KEY_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVSTEWARD_KERNELS_CPU_KEY_TILE_INL_H_
#undef KVSTEWARD_KERNELS_CPU_KEY_TILE_INL_H_
#else
#define KVSTEWARD_KERNELS_CPU_KEY_TILE_INL_H_
#endif

#include <algorithm>
#include <cstring>

#include "hwy/highway.h"
#include "kernels/cpu/tiles.h"
#include "kernels/plan/row.h"

HWY_BEFORE_NAMESPACE();
namespace kvsteward::engine::cpu::HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<float, 16>;
using V = hn::Vec<D>;
using DU = hn::RebindToUnsigned<D>;

inline constexpr size_t kTileStride = kTileKeys;  // words from a dimension of a tile, or a row of logits, to the next

// The tokens of one tile as 16-byte pieces, [piece][key], zeros after the row's last byte and the chunk's last token.
inline void StageTile(const Chunk& chunk, RowCursor& cursor, int32_t begin, uint32_t* stage) {
  const size_t bytes = chunk.geometry->token_bytes();
  const size_t whole = bytes / 16;
  const size_t rest = bytes % 16;
  auto* out = reinterpret_cast<std::byte*>(stage);
  constexpr size_t kStride = static_cast<size_t>(kTileKeys) * 16;
  const int32_t keys = std::clamp(chunk.end - begin, 0, kTileKeys);
  const std::byte* token = nullptr;
  for (int32_t key = 0; key < keys; ++key, token += bytes, out += 16) {
    if (key % kBlockTokens == 0) {
      token = chunk.pool->keys(cursor.block());
      cursor.Next();
    }
    for (size_t piece = 0; piece < whole; ++piece) std::memcpy(out + piece * kStride, token + piece * 16, 16);
    if (rest != 0) {
      std::memset(out + whole * kStride, 0, 16);
      std::memcpy(out + whole * kStride, token + whole * 16, rest);
    }
  }
  for (int32_t key = keys; key < kTileKeys; ++key, out += 16) {
    for (size_t piece = 0; piece < Scratch::Pieces(bytes); ++piece) std::memset(out + piece * kStride, 0, 16);
  }
}

// Stores 4 bytes of each of the vector's keys as one dimension (float32) or two of the tile.
template <DType kType>
HWY_INLINE void StoreWord(hn::Vec<DU> word, float* tile, size_t index) {
  const D d;
  const DU du;
  if constexpr (kType == DType::kF32) {
    hn::Store(hn::BitCast(d, word), d, tile + index * kTileStride);
  } else if constexpr (kType == DType::kBF16) {
    hn::Store(hn::BitCast(d, hn::ShiftLeft<16>(word)), d, tile + 2 * index * kTileStride);
    hn::Store(hn::BitCast(d, hn::And(word, hn::Set(du, 0xffff0000u))), d, tile + (2 * index + 1) * kTileStride);
  } else {
    const hn::Rebind<uint16_t, D> du16;
    const hn::Rebind<hwy::float16_t, D> df16;
    const auto even = hn::TruncateTo(du16, word);
    const auto odd = hn::TruncateTo(du16, hn::ShiftRight<16>(word));
    hn::Store(hn::PromoteTo(d, hn::BitCast(df16, even)), d, tile + 2 * index * kTileStride);
    hn::Store(hn::PromoteTo(d, hn::BitCast(df16, odd)), d, tile + (2 * index + 1) * kTileStride);
  }
}

// Staged tokens to float32, transposed: tile [dim][key].
template <DType kType>
void TransposeTile(const uint32_t* stage, size_t token_bytes, float* tile) {
  const DU du;
  const size_t lanes = hn::Lanes(du);
  for (size_t piece = 0; piece < Scratch::Pieces(token_bytes); ++piece) {
    for (size_t key = 0; key < static_cast<size_t>(kTileKeys); key += lanes) {
      hn::Vec<DU> a, b, c, e;
      hn::LoadInterleaved4(du, stage + (piece * kTileStride + key) * 4, a, b, c, e);
      StoreWord<kType>(a, tile + key, piece * 4);
      StoreWord<kType>(b, tile + key, piece * 4 + 1);
      StoreWord<kType>(c, tile + key, piece * 4 + 2);
      StoreWord<kType>(e, tile + key, piece * 4 + 3);
    }
  }
}

// Staged tokens transposed word by word: pairs [dim / 2][key].
inline void TransposePairs(const uint32_t* stage, size_t token_bytes, uint32_t* pairs) {
  const DU du;
  const size_t lanes = hn::Lanes(du);
  for (size_t piece = 0; piece < Scratch::Pieces(token_bytes); ++piece) {
    for (size_t key = 0; key < static_cast<size_t>(kTileKeys); key += lanes) {
      hn::Vec<DU> a, b, c, e;
      hn::LoadInterleaved4(du, stage + (piece * kTileStride + key) * 4, a, b, c, e);
      uint32_t* to = pairs + piece * 4 * kTileStride + key;
      hn::Store(a, du, to);
      hn::Store(b, du, to + kTileStride);
      hn::Store(c, du, to + 2 * kTileStride);
      hn::Store(e, du, to + 3 * kTileStride);
    }
  }
}

inline void LoadTile(const QueryRows& rows, const Chunk& chunk, RowCursor& cursor, int32_t begin, Scratch& scratch) {
  StageTile(chunk, cursor, begin, scratch.stage());
  const size_t bytes = chunk.geometry->token_bytes();
  if (rows.amx != nullptr) return TransposePairs(scratch.stage(), bytes, scratch.pairs());
  switch (chunk.geometry->dtype) {
    case DType::kF32:
      return TransposeTile<DType::kF32>(scratch.stage(), bytes, scratch.tile());
    case DType::kF16:
      return TransposeTile<DType::kF16>(scratch.stage(), bytes, scratch.tile());
    case DType::kBF16:
      return TransposeTile<DType::kBF16>(scratch.stage(), bytes, scratch.tile());
  }
}

}  // namespace
}  // namespace kvsteward::engine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
