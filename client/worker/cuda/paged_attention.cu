// Split over tokens: a block of warps takes kSplitTokens of a row for a few neighbouring queries, a warp several tokens
// of these at a time so that many 16-byte loads are in flight. `lanes` of a warp share a token, each has some pieces of
// it; tokens that other lanes have are merged at the end, then the warps' parts, then, in a second kernel, those of the
// splits. Splits are fixed pieces of a row, so that a result does not depend on what else is in the launch.
#include "client/worker/cuda/paged_attention.h"

#include <algorithm>
#include <cmath>

#include "client/worker/cuda/attend_lane.cuh"
#include "client/worker/cuda/partial_softmax.cuh"
#include "kernels/cuda/launch.h"

namespace kvsteward::worker::cuda {
namespace {

using engine::DType;

constexpr int32_t kThreads = 128;
constexpr int32_t kWarps = kThreads / 32;
constexpr int64_t kSplitTokens = 256;
constexpr int64_t kMostGridYZ = 65535;

// What both kernels know of one query: query head `index % group` of token `index / group` of a row.
struct Query {
  int64_t row;
  int32_t index;
  int64_t visible;  // tokens that it sees
  int64_t splits;   // at least 1

  __device__ Query(const PagedAttentionArgs& args, int64_t of_row, int32_t query)
      : row(of_row), index(query), visible(args.cache.length[of_row] + int64_t{query / args.group}) {
    splits = visible > kSplitTokens ? (visible + kSplitTokens - 1) / kSplitTokens : 1;
  }
  // Where its numbers begin in queries and in out.
  __device__ int64_t Offset(const PagedAttentionArgs& args, int64_t stride) const {
    return (row * args.group + index % args.group) * args.cache.head_dim + index / args.group * stride;
  }
};

// The workspace has, for each query of each row, `splits` records: [head_dim] sums, the highest score, the weights'
// sum.
__device__ __forceinline__ float* Record(const PagedAttentionArgs& args, const Query& query, int64_t splits,
                                         int64_t split) {
  const int64_t queries = int64_t{args.tokens} * args.group;
  return args.workspace + ((query.row * queries + query.index) * splits + split) * (args.cache.head_dim + 2);
}

template <DType kType, int32_t kPieces, int32_t kQueries>
__global__ void __launch_bounds__(kThreads)
    AttendKernel(PagedAttentionArgs args, int32_t lanes, int64_t splits, float scale) {
  using Share = Lane<kType, kPieces, kQueries>;
  const PagedRows& cache = args.cache;
  const int32_t dim = cache.head_dim;
  const int64_t row = blockIdx.x;
  const int64_t split = blockIdx.y;
  const int32_t first_query = static_cast<int32_t>(blockIdx.z) * kQueries;
  const int32_t last_query = min(first_query + kQueries, args.tokens * args.group) - 1;
  const int64_t seen = Query(args, row, last_query).visible;  // by any of the queries
  const int64_t begin = split * kSplitTokens;
  if (split > 0 && begin >= seen) return;  // the whole block
  const int64_t end = min(begin + kSplitTokens, seen);
  const int32_t warp = static_cast<int32_t>(threadIdx.x) / 32;
  const int32_t lane = static_cast<int32_t>(threadIdx.x) % 32;
  const int32_t step = 32 / lanes;  // tokens of a warp at a time
  const uint32_t* const blocks = cache.blocks + row * cache.block_stride;

  Share share;
  int64_t visible[kQueries];
#pragma unroll
  for (int32_t q = 0; q < kQueries; ++q) {
    // Beyond the last query it is repeated, and not written.
    const Query query(args, row, min(first_query + q, last_query));
    visible[q] = min(query.visible, end);
    share.LoadQuery(args.queries + query.Offset(args, args.query_stride), q, lane, lanes, dim, scale);
  }

  for (int64_t chunk = begin + int64_t{warp} * kRounds * step; chunk < end;
       chunk += int64_t{kThreads} / lanes * kRounds) {
    const int64_t first = chunk + lane / lanes;
    uint4 keys[kRounds][kPieces];
    uint4 values[kRounds][kPieces];
    LoadTokens<kType>(cache, blocks, first, step, end, lane, lanes, keys, values);
    float score[kRounds][kQueries];
#pragma unroll
    for (int32_t r = 0; r < kRounds; ++r) {
      float key[Share::kWidth];
#pragma unroll
      for (int32_t p = 0; p < kPieces; ++p) Unpack<kType>(keys[r][p], key + p * Share::kElements);
#pragma unroll
      for (int32_t q = 0; q < kQueries; ++q) score[r][q] = share.Dot(key, q);
    }
    for (int32_t mask = lanes / 2; mask > 0; mask /= 2) {
#pragma unroll
      for (int32_t r = 0; r < kRounds; ++r) {
#pragma unroll
        for (int32_t q = 0; q < kQueries; ++q) score[r][q] += __shfl_xor_sync(0xffffffffu, score[r][q], mask);
      }
    }
    // Scores become weights.
#pragma unroll
    for (int32_t q = 0; q < kQueries; ++q) {
      float highest = share.part[q].highest;
#pragma unroll
      for (int32_t r = 0; r < kRounds; ++r) {
        if (first + int64_t{r} * step >= visible[q]) score[r][q] = kNothing;
        highest = fmaxf(highest, score[r][q]);
      }
      const float factor = Factor(share.part[q].highest, highest);
      share.part[q].highest = highest;
      share.part[q].sum *= factor;
#pragma unroll
      for (int32_t i = 0; i < Share::kWidth; ++i) share.value[q][i] *= factor;
      const float base = highest == kNothing ? 0.0f : highest;
#pragma unroll
      for (int32_t r = 0; r < kRounds; ++r) {
        score[r][q] = exp2f(score[r][q] - base);
        share.part[q].sum += score[r][q];
      }
    }
#pragma unroll
    for (int32_t r = 0; r < kRounds; ++r) {
      float value[Share::kWidth];
#pragma unroll
      for (int32_t p = 0; p < kPieces; ++p) Unpack<kType>(values[r][p], value + p * Share::kElements);
#pragma unroll
      for (int32_t q = 0; q < kQueries; ++q) {
#pragma unroll
        for (int32_t i = 0; i < Share::kWidth; ++i) {
          share.value[q][i] = fmaf(score[r][q], value[i], share.value[q][i]);
        }
      }
    }
  }
  for (int32_t mask = lanes; mask < 32; mask *= 2) share.MergeWith(mask);

  __shared__ float values[kWarps][kQueries][kMostHeadDim];
  __shared__ Part parts[kWarps][kQueries];
#pragma unroll
  for (int32_t q = 0; q < kQueries; ++q) {
    if (lane == 0) parts[warp][q] = share.part[q];
#pragma unroll
    for (int32_t i = 0; i < Share::kWidth; ++i) {
      const int32_t column = Share::Column(i / Share::kElements, lane, lanes) + i % Share::kElements;
      if (lane < lanes && column < dim) values[warp][q][column] = share.value[q][i];
    }
  }
  __syncthreads();
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < (last_query - first_query + 1) * dim; i += kThreads) {
    const int32_t q = i / dim;
    const int32_t column = i % dim;
    const Query query(args, row, first_query + q);
    if (split >= query.splits) continue;  // others of these queries see more
    Part part;
    const float value = MergeWarps<kWarps>(&parts[0][q], kQueries, values[0][q], kQueries * kMostHeadDim, column, part);
    if (query.splits == 1) {
      args.out[query.Offset(args, args.out_stride) + column] = Divide(value, part.sum);
      continue;
    }
    float* const record = Record(args, query, splits, split);
    record[column] = value;
    if (column == 0) {
      record[dim] = part.highest;
      record[dim + 1] = part.sum;
    }
  }
}

// A block for each query: warps take its splits in turn.
__global__ void __launch_bounds__(kThreads) CombineKernel(PagedAttentionArgs args, int64_t splits) {
  constexpr int32_t kColumns = kMostHeadDim / 32;  // of a lane
  const int32_t dim = args.cache.head_dim;
  const int64_t queries = int64_t{args.tokens} * args.group;
  const Query query(args, blockIdx.x / queries, static_cast<int32_t>(blockIdx.x % queries));
  if (query.splits == 1) return;  // the whole block: written already
  const int32_t warp = static_cast<int32_t>(threadIdx.x) / 32;
  const int32_t lane = static_cast<int32_t>(threadIdx.x) % 32;

  Part part = {kNothing, 0.0f};
  float value[kColumns] = {};
  for (int64_t split = warp; split < query.splits; split += kWarps) {
    const float* const record = Record(args, query, splits, split);
    const float highest = fmaxf(part.highest, record[dim]);
    const float old_factor = Factor(part.highest, highest);
    const float new_factor = Factor(record[dim], highest);
    part.highest = highest;
    part.sum = part.sum * old_factor + record[dim + 1] * new_factor;
#pragma unroll
    for (int32_t i = 0; i < kColumns; ++i) {
      const int32_t column = lane + 32 * i;
      if (column < dim) value[i] = value[i] * old_factor + record[column] * new_factor;
    }
  }

  __shared__ float values[kWarps][kMostHeadDim];
  __shared__ Part parts[kWarps];
  if (lane == 0) parts[warp] = part;
#pragma unroll
  for (int32_t i = 0; i < kColumns; ++i) values[warp][lane + 32 * i] = value[i];
  __syncthreads();
  for (int32_t column = static_cast<int32_t>(threadIdx.x); column < dim; column += kThreads) {
    Part merged;
    const float sum = MergeWarps<kWarps>(parts, 1, values[0], kMostHeadDim, column, merged);
    args.out[query.Offset(args, args.out_stride) + column] = Divide(sum, merged.sum);
  }
}

int64_t MostSplits(const PagedAttentionArgs& args) {
  const int64_t seen = args.longest + int64_t{args.tokens} - 1;
  return std::max<int64_t>(1, (seen + kSplitTokens - 1) / kSplitTokens);
}

template <DType kType, int32_t kPieces, int32_t kQueries>
cudaError_t Attend(const PagedAttentionArgs& args, cudaStream_t stream) {
  const int32_t pieces = args.cache.head_dim / kPieceElements<kType>;
  int32_t lanes = 1;
  while (lanes * kPieces < pieces) lanes *= 2;
  const int64_t queries = int64_t{args.tokens} * args.group;
  const int64_t splits = MostSplits(args);
  const int64_t tiles = (queries + kQueries - 1) / kQueries;
  if (splits > kMostGridYZ || tiles > kMostGridYZ || args.cache.rows > INT32_MAX / queries) {
    return cudaErrorInvalidValue;
  }
  // Scores are powers of two.
  const auto scale = static_cast<float>(1.4426950408889634 / std::sqrt(static_cast<double>(args.cache.head_dim)));
  const dim3 grid(static_cast<unsigned>(args.cache.rows), static_cast<unsigned>(splits), static_cast<unsigned>(tiles));
  const cudaError_t error = engine::cuda::Launch(AttendKernel<kType, kPieces, kQueries>, grid, kThreads, 0, stream,
                                                 args, lanes, splits, scale);
  if (error != cudaSuccess || splits == 1) return error;
  return engine::cuda::Launch(CombineKernel, static_cast<unsigned>(args.cache.rows * queries), kThreads, 0, stream,
                              args, splits);
}

template <DType kType, int32_t kPieces>
cudaError_t AttendTyped(const PagedAttentionArgs& args, cudaStream_t stream) {
  const int64_t queries = int64_t{args.tokens} * args.group;
  if (queries == 1) return Attend<kType, kPieces, 1>(args, stream);
  if (queries == 2) return Attend<kType, kPieces, 2>(args, stream);
  if (queries <= 4) return Attend<kType, kPieces, 4>(args, stream);
  return Attend<kType, kPieces, 8>(args, stream);
}

}  // namespace

size_t PagedAttentionWorkspace(const PagedAttentionArgs& args) {
  const int64_t splits = MostSplits(args);
  if (splits == 1) return 0;
  return sizeof(float) * static_cast<size_t>(args.cache.rows) * static_cast<size_t>(args.tokens) *
         static_cast<size_t>(args.group) * static_cast<size_t>(splits) * static_cast<size_t>(args.cache.head_dim + 2);
}

cudaError_t LaunchPagedAttention(const PagedAttentionArgs& args, cudaStream_t stream) {
  const int32_t dim = args.cache.head_dim;
  if (dim <= 0 || dim > kMostHeadDim || dim % 8 != 0) return cudaErrorInvalidValue;
  if (args.cache.rows <= 0 || args.tokens <= 0 || args.group <= 0) return cudaSuccess;
  switch (args.cache.dtype) {
    case DType::kF32:
      return dim > 128 ? AttendTyped<DType::kF32, 2>(args, stream) : AttendTyped<DType::kF32, 1>(args, stream);
    case DType::kF16:
      return AttendTyped<DType::kF16, 1>(args, stream);
    case DType::kBF16:
      return AttendTyped<DType::kBF16, 1>(args, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace kvsteward::worker::cuda
