// Value norms: a warp takes the 16 tokens of a block, whose values lie one after the other, several tokens at a time so
// that many 16-byte loads are in flight.
#include "kernels/cuda/norms.h"

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.h"

namespace kvsteward::engine::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kRounds = 4;  // loads of a lane in flight
constexpr int kPieceBytes = 16;

template <bool kSquares>
__device__ __forceinline__ void Add(float value, float& sum) {
  sum = kSquares ? fmaf(value, value, sum) : sum + fabsf(value);
}

// Adds the numbers of 16 bytes.
template <DType kType, bool kSquares>
__device__ __forceinline__ void AddPiece(const uint4& piece, float& sum) {
  const uint32_t words[4] = {piece.x, piece.y, piece.z, piece.w};
#pragma unroll
  for (const uint32_t word : words) {
    if constexpr (kType == DType::kF32) {
      Add<kSquares>(__uint_as_float(word), sum);
    } else {
      Add<kSquares>(FromHalfWord<kType>(static_cast<uint16_t>(word & 0xffffu)), sum);
      Add<kSquares>(FromHalfWord<kType>(static_cast<uint16_t>(word >> 16)), sum);
    }
  }
}

// `lanes`, a power of two up to 32, share a token. kPieces: a token is whole 16-byte pieces; else single elements.
template <DType kType, bool kSquares, bool kPieces>
__global__ void __launch_bounds__(kThreads)
    Norms(DevicePool pool, DeviceUnits units, int32_t head_dim, int32_t lanes, const int32_t* normed, int64_t* bad) {
  const int32_t unit = static_cast<int32_t>(blockIdx.y);
  const int32_t length = units.length[unit];
  const int32_t index = static_cast<int32_t>(blockIdx.x) * kWarps + static_cast<int32_t>(threadIdx.x) / 32;
  const int32_t first_new = normed[unit];
  const int64_t begin = int64_t{index} * kBlockTokens;
  if (begin >= length || begin + kBlockTokens <= first_new) return;  // the whole warp
  const int32_t lane = static_cast<int32_t>(threadIdx.x) % 32;
  const int32_t at_a_time = 32 / lanes;
  const int32_t part = lane % lanes;
  const int64_t token_bytes = int64_t{head_dim} * static_cast<int64_t>(SizeOf(kType));
  const int32_t parts = kPieces ? static_cast<int32_t>(token_bytes / kPieceBytes) : head_dim;
  const uint32_t block = units.blocks[int64_t{unit} * units.block_stride + index];
  const std::byte* values = pool.data + static_cast<size_t>(block) * pool.block_bytes + pool.block_bytes / 2;

  for (int32_t base = 0; base < kBlockTokens; base += kRounds * at_a_time) {
    float sum[kRounds] = {};
    for (int32_t i = part; i < parts; i += lanes) {
      if constexpr (kPieces) {
        uint4 piece[kRounds];
#pragma unroll
        for (int round = 0; round < kRounds; ++round) {
          const int32_t slot = base + round * at_a_time + lane / lanes;
          piece[round] = make_uint4(0, 0, 0, 0);
          if (slot < kBlockTokens && begin + slot < length) {
            piece[round] = *reinterpret_cast<const uint4*>(values + slot * token_bytes + int64_t{i} * kPieceBytes);
          }
        }
#pragma unroll
        for (int round = 0; round < kRounds; ++round) AddPiece<kType, kSquares>(piece[round], sum[round]);
      } else {
#pragma unroll
        for (int round = 0; round < kRounds; ++round) {
          const int32_t slot = base + round * at_a_time + lane / lanes;
          if (slot < kBlockTokens && begin + slot < length) {
            Add<kSquares>(Element<kType>(values + slot * token_bytes, i), sum[round]);
          }
        }
      }
    }
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      for (int32_t mask = lanes / 2; mask > 0; mask /= 2) sum[round] += __shfl_xor_sync(0xffffffffu, sum[round], mask);
      const int32_t slot = base + round * at_a_time + lane / lanes;
      const int64_t token = begin + slot;
      if (part != 0 || slot >= kBlockTokens || token >= length || token < first_new) continue;
      pool.norms[static_cast<size_t>(block) * kBlockTokens + static_cast<size_t>(slot)] = sum[round];
      if (!isfinite(sum[round])) ReportBadToken(bad, unit, token);
    }
  }
}

template <DType kType, bool kSquares>
cudaError_t LaunchAs(const DevicePool& pool, const DeviceUnits& units, int32_t head_dim, const int32_t* normed,
                     int64_t* bad, cudaStream_t stream) {
  const size_t token_bytes = static_cast<size_t>(head_dim) * SizeOf(kType);
  const bool pieces = token_bytes % kPieceBytes == 0;
  const int64_t parts = pieces ? static_cast<int64_t>(token_bytes / kPieceBytes) : head_dim;
  int32_t lanes = 1;
  while (lanes < 32 && 2 * int64_t{lanes} <= parts) lanes *= 2;
  const int64_t blocks = (int64_t{units.longest} + kBlockTokens - 1) / kBlockTokens;
  const dim3 grid(static_cast<uint32_t>((blocks + kWarps - 1) / kWarps), static_cast<uint32_t>(units.units));
  return Launch(pieces ? Norms<kType, kSquares, true> : Norms<kType, kSquares, false>, grid, kThreads, 0, stream, pool,
                units, head_dim, lanes, normed, bad);
}

}  // namespace

cudaError_t LaunchNorms(const DevicePool& pool, const DeviceUnits& units, int32_t head_dim, DType dtype, bool squares,
                        const int32_t* normed, int64_t* bad, cudaStream_t stream) {
  if (units.units <= 0 || units.longest <= 0) return cudaSuccess;
  if (units.units > kMostGridUnits) {
    const cudaError_t error =
        LaunchNorms(pool, Slice(units, 0, kMostGridUnits), head_dim, dtype, squares, normed, bad, stream);
    if (error != cudaSuccess) return error;
    return LaunchNorms(pool, Slice(units, kMostGridUnits, units.units - kMostGridUnits), head_dim, dtype, squares,
                       normed + kMostGridUnits, bad + kMostGridUnits, stream);
  }
  switch (dtype) {
    case DType::kF32:
      return (squares ? LaunchAs<DType::kF32, true> : LaunchAs<DType::kF32, false>)(pool, units, head_dim, normed, bad,
                                                                                    stream);
    case DType::kF16:
      return (squares ? LaunchAs<DType::kF16, true> : LaunchAs<DType::kF16, false>)(pool, units, head_dim, normed, bad,
                                                                                    stream);
    case DType::kBF16:
      return (squares ? LaunchAs<DType::kBF16, true> : LaunchAs<DType::kBF16, false>)(pool, units, head_dim, normed,
                                                                                      bad, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace kvsteward::engine::cuda
