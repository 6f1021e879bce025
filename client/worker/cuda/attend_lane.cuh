// What one lane of a warp does in attention: it has the same pieces, 16 bytes each, of every token that its lanes take.
#pragma once

#include "client/worker/cuda/paged_rows.h"
#include "client/worker/cuda/partial_softmax.cuh"
#include "kernels/cuda/element.cuh"

namespace kvsteward::worker::cuda {

using engine::DType;

constexpr int32_t kRounds = 4;  // tokens of a lane at a time
constexpr int32_t kPieceBytes = 16;
template <DType kType>
constexpr int32_t kPieceElements = kPieceBytes / static_cast<int32_t>(engine::SizeOf(kType));

template <DType kType>
__device__ __forceinline__ void Unpack(const uint4& piece, float* numbers) {
  const uint32_t words[4] = {piece.x, piece.y, piece.z, piece.w};
#pragma unroll
  for (int32_t i = 0; i < 4; ++i) {
    if constexpr (kType == DType::kF32) {
      numbers[i] = __uint_as_float(words[i]);
    } else {
      numbers[2 * i] = engine::cuda::FromHalfWord<kType>(static_cast<uint16_t>(words[i] & 0xffffu));
      numbers[2 * i + 1] = engine::cuda::FromHalfWord<kType>(static_cast<uint16_t>(words[i] >> 16));
    }
  }
}

// One lane's share of its tokens: kPieces pieces, `lanes` pieces apart.
template <DType kType, int32_t kPieces, int32_t kQueries>
struct Lane {
  static constexpr int32_t kElements = kPieceElements<kType>;
  static constexpr int32_t kWidth = kPieces * kElements;

  float query[kQueries][kWidth];  // scaled; 0 behind head_dim
  float value[kQueries][kWidth];
  Part part[kQueries];

  __device__ Lane() {
#pragma unroll
    for (int32_t q = 0; q < kQueries; ++q) {
      part[q] = {kNothing, 0.0f};
#pragma unroll
      for (int32_t i = 0; i < kWidth; ++i) value[q][i] = 0;
    }
  }

  __device__ static int32_t Column(int32_t piece, int32_t lane, int32_t lanes) {
    return (lane % lanes + piece * lanes) * kElements;
  }

  __device__ void LoadQuery(const float* from, int32_t q, int32_t lane, int32_t lanes, int32_t dim, float scale) {
#pragma unroll
    for (int32_t i = 0; i < kWidth; ++i) {
      const int32_t column = Column(i / kElements, lane, lanes) + i % kElements;
      query[q][i] = column < dim ? from[column] * scale : 0.0f;
    }
  }

  // Its share of the query's products with a key: to be summed over the token's lanes.
  __device__ float Dot(const float* key, int32_t q) const {
    float sum = 0;
#pragma unroll
    for (int32_t i = 0; i < kWidth; ++i) sum = fmaf(query[q][i], key[i], sum);
    return sum;
  }

  // Merges with what another lane has for the same columns.
  __device__ void MergeWith(int32_t mask) {
#pragma unroll
    for (int32_t q = 0; q < kQueries; ++q) {
      const float other = __shfl_xor_sync(0xffffffffu, part[q].highest, mask);
      const float highest = fmaxf(part[q].highest, other);
      const float mine = Factor(part[q].highest, highest);
      const float theirs = Factor(other, highest);
      part[q].highest = highest;
      part[q].sum = part[q].sum * mine + __shfl_xor_sync(0xffffffffu, part[q].sum, mask) * theirs;
#pragma unroll
      for (int32_t i = 0; i < kWidth; ++i) {
        value[q][i] = value[q][i] * mine + __shfl_xor_sync(0xffffffffu, value[q][i], mask) * theirs;
      }
    }
  }
};

// Pieces of the tokens first, first + step, ... of a row: their keys, or their values `half` bytes behind. Zero from
// `end` on.
template <DType kType, int32_t kPieces>
__device__ __forceinline__ void LoadTokens(const PagedRows& cache, const uint32_t* blocks, int64_t first, int32_t step,
                                           int64_t end, int32_t lane, int32_t lanes, uint4 (&key)[kRounds][kPieces],
                                           uint4 (&value)[kRounds][kPieces]) {
  const int64_t size = static_cast<int64_t>(engine::SizeOf(kType));
  const auto half = static_cast<int64_t>(cache.block_bytes / 2);
#pragma unroll
  for (int32_t r = 0; r < kRounds; ++r) {
    const int64_t token = first + int64_t{r} * step;
    const std::byte* at = nullptr;
    if (token < end) {
      at = cache.data + blocks[token / engine::kBlockTokens] * cache.block_bytes +
           token % engine::kBlockTokens * cache.head_dim * size;
    }
#pragma unroll
    for (int32_t p = 0; p < kPieces; ++p) {
      const int32_t column = Lane<kType, kPieces, 1>::Column(p, lane, lanes);
      const bool there = at != nullptr && column < cache.head_dim;
      key[r][p] = there ? *reinterpret_cast<const uint4*>(at + column * size) : make_uint4(0, 0, 0, 0);
      value[r][p] = there ? *reinterpret_cast<const uint4*>(at + half + column * size) : make_uint4(0, 0, 0, 0);
    }
  }
}

}  // namespace kvsteward::worker::cuda
