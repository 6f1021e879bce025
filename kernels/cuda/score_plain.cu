// Logits by plain multiplication and addition, straight from memory: for float32, for keys and queries of different
// types and for head dimensions that tensor cores do not take. Exactness before speed.
#include "kernels/cuda/score_kernels.cuh"

namespace kvsteward::engine::cuda {
namespace {

constexpr int32_t kDimBlock = 64;  // longer dot products are added up block by block

template <DType kKeys, DType kQueries>
class PlainSource {
 public:
  static constexpr int kCtas = 1;
  static int SharedBytes(int32_t) { return 0; }

  __device__ PlainSource(const ScorePass& pass, int32_t unit, int32_t begin, int32_t end, std::byte*)
      : pass_(pass), unit_(unit), begin_(begin), end_(end) {}

  __device__ void Start(int32_t row_block) { first_row_ = row_block * kBlockRows; }

  __device__ const std::byte* NextTile(int32_t) {
    __syncthreads();
    return nullptr;
  }

  __device__ void Strip(const std::byte*, int32_t tile, const Lane& lane, int strip, Logits* logits) const {
    const std::byte* query[kOctets];
    const std::byte* key[4];
#pragma unroll
    for (int o = 0; o < kOctets; ++o) query[o] = QueryRow(pass_, unit_, first_row_ + lane.row + 8 * o, kQueries);
    const int64_t token_bytes = int64_t{pass_.head_dim} * static_cast<int64_t>(SizeOf(kKeys));
    const uint32_t* blocks = pass_.units.blocks + int64_t{unit_} * pass_.units.block_stride;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int32_t j = begin_ + tile * kTileKeys + lane.key + strip * kStripKeys + Lane::Offset(c);
      key[c] = nullptr;
      if (j >= end_) continue;
      key[c] = pass_.pool.data + static_cast<size_t>(blocks[j / kBlockTokens]) * pass_.pool.block_bytes +
               j % kBlockTokens * token_bytes;
    }
#pragma unroll
    for (int o = 0; o < kOctets; ++o) {
#pragma unroll
      for (int c = 0; c < 4; ++c) logits->at[o][c] = 0;
    }
    for (int32_t from = 0; from < pass_.head_dim; from += kDimBlock) {
      const int32_t to = min(from + kDimBlock, pass_.head_dim);
      Logits part = {};
      for (int32_t k = from; k < to; ++k) {
        float q[kOctets];
        float x[4];
#pragma unroll
        for (int o = 0; o < kOctets; ++o) q[o] = query[o] == nullptr ? 0.0f : Element<kQueries>(query[o], k);
#pragma unroll
        for (int c = 0; c < 4; ++c) x[c] = key[c] == nullptr ? 0.0f : Element<kKeys>(key[c], k);
#pragma unroll
        for (int o = 0; o < kOctets; ++o) {
#pragma unroll
          for (int c = 0; c < 4; ++c) part.at[o][c] = fmaf(q[o], x[c], part.at[o][c]);
        }
      }
#pragma unroll
      for (int o = 0; o < kOctets; ++o) {
#pragma unroll
        for (int c = 0; c < 4; ++c) logits->at[o][c] += part.at[o][c];
      }
    }
  }

 private:
  const ScorePass& pass_;
  const int32_t unit_;
  const int32_t begin_;
  const int32_t end_;
  int32_t first_row_ = 0;
};

// Calls with<Source>() for the Source of the two types.
template <DType kKeys, class With>
cudaError_t ForQueries(DType queries, const With& with) {
  switch (queries) {
    case DType::kF32:
      return with.template operator()<PlainSource<kKeys, DType::kF32>>();
    case DType::kF16:
      return with.template operator()<PlainSource<kKeys, DType::kF16>>();
    case DType::kBF16:
      return with.template operator()<PlainSource<kKeys, DType::kBF16>>();
  }
  return cudaErrorInvalidValue;
}

template <class With>
cudaError_t ForTypes(DType keys, DType queries, const With& with) {
  switch (keys) {
    case DType::kF32:
      return ForQueries<DType::kF32>(queries, with);
    case DType::kF16:
      return ForQueries<DType::kF16>(queries, with);
    case DType::kBF16:
      return ForQueries<DType::kBF16>(queries, with);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t LaunchReducePlain(const ScorePass& pass, DType keys, DType queries, cudaStream_t stream) {
  return ForTypes(keys, queries, [&]<class Source>() { return LaunchReduce<Source>(pass, stream); });
}

cudaError_t LaunchFoldPlain(const ScorePass& pass, DType keys, DType queries, RowFold fold, cudaStream_t stream) {
  return ForTypes(keys, queries, [&]<class Source>() { return LaunchFold<Source>(pass, fold, stream); });
}

}  // namespace kvsteward::engine::cuda
