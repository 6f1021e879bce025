// Logits on tensor cores: mma.sync m16n8k16, keys through shared memory by cp.async. With head_dim 128 the query rows
// stay in registers; with others they are read from shared memory.
#include "kernels/cuda/score_kernels.cuh"

namespace kvsteward::engine::cuda {
namespace {

constexpr int32_t kPiece = 16;     // bytes that CopyAsync copies
constexpr int32_t kStepDims = 16;  // of one mma
constexpr int32_t kChunkBlocks = kChunkKeys / kBlockTokens;

// kSteps: head_dim / 16 if the query rows are in registers, else 0. Shared memory: the stages' tiles of keys, then the
// row block if it is not in registers, every row 16 bytes longer than its numbers so that eight rows of a matrix lie in
// different banks.
template <bool kBf16, int kSteps>
class MmaSource {
 public:
  static constexpr int kCtas = kSteps > 0 ? 2 : 1;
  static constexpr int kStages = kSteps > 0 ? 3 : 2;
  static constexpr DType kType = kBf16 ? DType::kBF16 : DType::kF16;

  static int SharedBytes(int32_t head_dim) {
    return (kStages * kTileKeys + (kSteps > 0 ? 0 : kBlockRows)) * (head_dim * 2 + kPiece);
  }

  __device__ MmaSource(const ScorePass& pass, int32_t unit, int32_t begin, int32_t end, std::byte* shared)
      : pass_(pass), unit_(unit), keys_(end - begin), shared_(shared) {
    __shared__ uint32_t blocks[kChunkBlocks];
    blocks_ = blocks;
    const int32_t count = (keys_ + kBlockTokens - 1) / kBlockTokens;
    const uint32_t* from = pass.units.blocks + int64_t{unit} * pass.units.block_stride + begin / kBlockTokens;
    for (auto i = static_cast<int32_t>(threadIdx.x); i < count; i += kScoreThreads) blocks[i] = from[i];
    __syncthreads();
  }

  __device__ __forceinline__ void Start(int32_t row_block) {
#pragma unroll
    for (int stage = 0; stage < kStages - 1; ++stage) Copy(stage);
    const int32_t first_row = row_block * kBlockRows;
    if constexpr (kSteps > 0) {
      const Lane lane;
#pragma unroll
      for (int o = 0; o < kOctets; ++o) {
        const std::byte* row = QueryRow(pass_, unit_, first_row + lane.row + 8 * o, kType);
        const auto* words = reinterpret_cast<const uint32_t*>(row) + lane.lane % 4;
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          // Rows and dimensions: (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8).
          query_[step][o / 2][o % 2] = row == nullptr ? 0 : words[step * 8];
          query_[step][o / 2][o % 2 + 2] = row == nullptr ? 0 : words[step * 8 + 4];
        }
      }
    } else {
      const int32_t words = pass_.head_dim / 2;
      for (auto i = static_cast<int32_t>(threadIdx.x); i < kBlockRows * words; i += kScoreThreads) {
        const std::byte* row = QueryRow(pass_, unit_, first_row + i / words, kType);
        auto* to = reinterpret_cast<uint32_t*>(Row(kStages * kTileKeys + i / words));
        to[i % words] = row == nullptr ? 0 : reinterpret_cast<const uint32_t*>(row)[i % words];
      }
      // The first tile's barrier lies between this and its use.
    }
  }

  __device__ __forceinline__ const std::byte* NextTile(int32_t tile) {
    AwaitCopies<kStages - 2>();
    __syncthreads();  // all threads' copies have come, and all are done with the tile before
    Copy(tile + kStages - 1);
    return Row(tile % kStages * kTileKeys);
  }

  __device__ __forceinline__ void Strip(const std::byte* tile, int32_t, const Lane& lane, int strip,
                                        Logits* logits) const {
#pragma unroll
    for (int o = 0; o < kOctets; ++o) {
#pragma unroll
      for (int c = 0; c < 4; ++c) logits->at[o][c] = 0;
    }
    // Matrices: keys 0-7 and dimensions 0-7, keys 0-7 and 8-15, keys 8-15 and 0-7, keys 8-15 and 8-15.
    const int32_t key = lane.key / kWarpKeys * kWarpKeys + strip * kStripKeys + lane.lane / 16 * 8 + lane.lane % 8;
    const std::byte* keys = tile + key * RowBytes() + lane.lane / 8 % 2 * kPiece;
    const auto add = [&](const uint32_t(&upper)[4], const uint32_t(&lower)[4], int step) {
      uint32_t b[4];
      LoadMatrices(keys + step * kStepDims * 2, b);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        Multiply<kBf16>(upper, b[2 * n], b[2 * n + 1], &logits->at[0][2 * n], &logits->at[1][2 * n]);
        Multiply<kBf16>(lower, b[2 * n], b[2 * n + 1], &logits->at[2][2 * n], &logits->at[3][2 * n]);
      }
    };
    if constexpr (kSteps > 0) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) add(query_[step][0], query_[step][1], step);
    } else {
      // Matrices: rows 0-7 and dimensions 0-7, rows 8-15 and 0-7, rows 0-7 and 8-15, rows 8-15 and 8-15.
      const int32_t row = kStages * kTileKeys + lane.row_warp * kWarpRows + lane.lane % 16;
      const std::byte* rows = Row(row) + lane.lane / 16 * kPiece;
      for (int step = 0; step < pass_.head_dim / kStepDims; ++step) {
        uint32_t upper[4];
        uint32_t lower[4];
        LoadMatrices(rows + step * kStepDims * 2, upper);
        LoadMatrices(rows + 16 * RowBytes() + step * kStepDims * 2, lower);
        add(upper, lower, step);
      }
    }
  }

 private:
  __device__ __forceinline__ int32_t TokenBytes() const {
    return kSteps > 0 ? kSteps * kStepDims * 2 : pass_.head_dim * 2;
  }
  __device__ __forceinline__ int32_t RowBytes() const { return TokenBytes() + kPiece; }
  __device__ __forceinline__ std::byte* Row(int32_t row) const { return shared_ + row * RowBytes(); }

  // Starts copying a tile, nothing if it lies behind the chunk; one group either way. Zeros behind the last key.
  __device__ __forceinline__ void Copy(int32_t tile) {
    const int32_t pieces = TokenBytes() / kPiece;
    if (tile * kTileKeys < keys_) {
      for (auto i = static_cast<int32_t>(threadIdx.x); i < kTileKeys * pieces; i += kScoreThreads) {
        const int32_t key = tile * kTileKeys + i / pieces;
        const int32_t at = i % pieces * kPiece;
        const bool valid = key < keys_;
        const std::byte* from = pass_.pool.data;
        if (valid) {
          from += static_cast<size_t>(blocks_[key / kBlockTokens]) * pass_.pool.block_bytes +
                  static_cast<size_t>(key % kBlockTokens * TokenBytes() + at);
        }
        CopyAsync(Row(tile % kStages * kTileKeys + i / pieces) + at, from, valid);
      }
    }
    CommitCopies();
  }

  const ScorePass& pass_;
  const int32_t unit_;
  const int32_t keys_;  // of the chunk
  std::byte* const shared_;
  const uint32_t* blocks_;                         // [kChunkBlocks] of the chunk
  uint32_t query_[kSteps > 0 ? kSteps : 1][2][4];  // [step][rows 0-15, 16-31][matrix]
};

constexpr int32_t kCommonDim = 128;

}  // namespace

cudaError_t LaunchReduceOnTensorCores(const ScorePass& pass, bool bf16, cudaStream_t stream) {
  if (pass.head_dim == kCommonDim) {
    return bf16 ? LaunchReduce<MmaSource<true, kCommonDim / kStepDims>>(pass, stream)
                : LaunchReduce<MmaSource<false, kCommonDim / kStepDims>>(pass, stream);
  }
  return bf16 ? LaunchReduce<MmaSource<true, 0>>(pass, stream) : LaunchReduce<MmaSource<false, 0>>(pass, stream);
}

cudaError_t LaunchFoldOnTensorCores(const ScorePass& pass, bool bf16, RowFold fold, cudaStream_t stream) {
  if (pass.head_dim == kCommonDim) {
    return bf16 ? LaunchFold<MmaSource<true, kCommonDim / kStepDims>>(pass, fold, stream)
                : LaunchFold<MmaSource<false, kCommonDim / kStepDims>>(pass, fold, stream);
  }
  return bf16 ? LaunchFold<MmaSource<true, 0>>(pass, fold, stream)
              : LaunchFold<MmaSource<false, 0>>(pass, fold, stream);
}

}  // namespace kvsteward::engine::cuda
