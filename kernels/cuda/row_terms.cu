// What each query row multiplies its logits and probabilities by: which residents it sees, and its normaliser from
// those of the chunks. A thread or a few take a row; none of this is much work.
#include <cfloat>
#include <cmath>

#include "kernels/cuda/bad_token.h"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/score.h"
#include "kernels/cuda/score_pass.h"

namespace kvsteward::engine::cuda {
namespace {

constexpr float kLeastScore = 0x1p-100f;  // scores below it become +0
constexpr int kTermThreads = 128;
constexpr int kCombineRows = 32;
constexpr int kCombineParts = 8;  // threads that share the chunks of a row

// How many of the unit's residents have a position <= `position`. Positions ascend without repeats, so there is little
// to search where the row is among the last tokens.
__device__ int32_t VisibleCount(const DevicePool& pool, const DeviceUnits& units, int32_t unit, int32_t position) {
  const int32_t length = units.length[unit];
  const int32_t stored = units.stored[unit];
  const int64_t past = int64_t{position} - units.appended_position[unit] + 1;  // of the appended, if there are any
  if (length > stored && past > 0) return stored + static_cast<int32_t>(min(past, int64_t{length} - stored));
  if (stored == 0) return 0;
  const uint32_t* blocks = units.blocks + int64_t{unit} * units.block_stride;
  const auto position_of = [&](int32_t j) {
    return pool.positions[static_cast<size_t>(blocks[j / kBlockTokens]) * kBlockTokens +
                          static_cast<size_t>(j % kBlockTokens)];
  };
  const int64_t beyond = int64_t{position_of(stored - 1)} - position;
  if (beyond <= 0) return stored;
  int32_t low = static_cast<int32_t>(max(int64_t{0}, stored - beyond));  // at most `beyond` residents come later
  int32_t high = stored - 1;                                             // the last one does
  while (low < high) {
    const int32_t middle = low + (high - low) / 2;
    if (position_of(middle) <= position) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// Fills a row whose scale is yet without the exponent from its normaliser: `sum` of 2^(scaled logit - max), 0 if it
// sees nothing. False if that is not finite. A row that weighs nothing has scale 0 as well, so that nothing overflows.
__device__ bool Weigh(double max, double sum, double exponent, bool softmax1, int32_t rows, RowTerm* term) {
  const double scale = double{term->scale} * exponent;
  term->scale = term->max = term->weight = 0;
  if (!(sum >= 0 && sum <= DBL_MAX && fabs(max) <= FLT_MAX)) return false;
  if (sum == 0) return true;
  if (softmax1) {
    // Shifted by max(0, max), so that 2^-max does not overflow.
    const double shift = fmax(0.0, max);
    sum = sum * exp2(max - shift) + exp2(-shift);
    max = shift;
  }
  const double weight = exponent == 1 ? 1 / sum : pow(sum, -exponent);
  // What all of a query head's rows together could not bring up to the least score is left out.
  if (weight * rows < double{kLeastScore}) return true;
  term->scale = static_cast<float>(scale);
  term->max = static_cast<float>(max * exponent);
  term->weight = static_cast<float>(weight);
  return true;
}

__global__ void __launch_bounds__(kTermThreads) RowTerms(ScoreArgs args, ScorePass pass) {
  const int32_t row = static_cast<int32_t>(blockIdx.x * kTermThreads + threadIdx.x);
  const int32_t in_group = static_cast<int32_t>(blockIdx.y);
  const int32_t unit = pass.first_unit + in_group;
  if (row >= pass.padded_rows()) return;
  const int32_t head = row / pass.head_rows;
  const int32_t in_head = row % pass.head_rows;
  RowTerm term;
  if (head >= pass.group || in_head >= pass.rows) {
    term.visible = INT32_MAX;
  } else {
    term.scale = args.scale[int64_t{unit} * args.scale_stride + in_head];
    term.visible = VisibleCount(pass.pool, pass.units, unit, args.positions[in_head]);
    if (args.log_normaliser != nullptr) {
      const float log = args.log_normaliser[(int64_t{unit} * pass.group + head) * pass.rows + in_head];
      const bool nothing = term.visible == 0 || log == -INFINITY;
      const double max = nothing ? 0 : double{log} * 1.4426950408889634;
      if (!Weigh(max, nothing ? 0 : 1, args.exponent, args.softmax1, pass.rows, &term)) {
        ReportBadToken(pass.bad, unit, kBadNormaliser);
      }
    }
  }
  pass.terms[int64_t{in_group} * pass.padded_rows() + row] = term;
}

struct Normaliser {
  float max = -FLT_MAX;
  double sum = 0;

  // Adds what lies behind. A sum that is not a number stays so.
  __device__ void Add(float other_max, double other_sum) {
    const float top = fmaxf(max, other_max);
    sum = sum * double{exp2f(max - top)} + other_sum * double{exp2f(other_max - top)};
    max = top;
  }
};

// threadIdx.x is the row, threadIdx.y a stretch of the unit's chunks.
__global__ void __launch_bounds__(kCombineRows* kCombineParts) Combine(ScorePass pass, double exponent, bool softmax1) {
  __shared__ float maxima[kCombineParts][kCombineRows];
  __shared__ double sums[kCombineParts][kCombineRows];
  const int32_t in_group = static_cast<int32_t>(blockIdx.y);
  const int32_t length = pass.units.length[pass.first_unit + in_group];
  const auto chunks = static_cast<int32_t>((int64_t{length} + kChunkKeys - 1) / kChunkKeys);
  const int32_t stretch = (chunks + kCombineParts - 1) / kCombineParts;
  const int32_t part = static_cast<int32_t>(threadIdx.y);
  const int32_t row = static_cast<int32_t>(blockIdx.x * kCombineRows + threadIdx.x);  // kBlockRows is a multiple
  const int32_t end = min(chunks, (part + 1) * stretch);
  Normaliser normaliser;
#pragma unroll 4
  for (int32_t chunk = part * stretch; chunk < end; ++chunk) {
    const int64_t at = (int64_t{in_group} * pass.chunks + chunk) * pass.padded_rows() + row;
    normaliser.Add(pass.chunk_max[at], pass.chunk_sum[at]);
  }
  maxima[part][threadIdx.x] = normaliser.max;
  sums[part][threadIdx.x] = normaliser.sum;
  __syncthreads();
  if (part != 0) return;
  for (int other = 1; other < kCombineParts; ++other) {
    normaliser.Add(maxima[other][threadIdx.x], sums[other][threadIdx.x]);
  }
  if (row / pass.head_rows >= pass.group || row % pass.head_rows >= pass.rows) return;  // padding stays as it is
  RowTerm* term = pass.terms + int64_t{in_group} * pass.padded_rows() + row;
  RowTerm filled = *term;
  // What is not finite has been reported with its token.
  Weigh(double{normaliser.max}, normaliser.sum, exponent, softmax1, pass.rows, &filled);
  *term = filled;
}

}  // namespace

cudaError_t LaunchRowTerms(const ScoreArgs& args, const ScorePass& pass, cudaStream_t stream) {
  const dim3 grid(static_cast<uint32_t>((pass.padded_rows() + kTermThreads - 1) / kTermThreads),
                  static_cast<uint32_t>(pass.unit_count));
  return Launch(RowTerms, grid, kTermThreads, 0, stream, args, pass);
}

cudaError_t LaunchCombine(const ScoreArgs& args, const ScorePass& pass, cudaStream_t stream) {
  const dim3 grid(static_cast<uint32_t>(pass.padded_rows() / kCombineRows), static_cast<uint32_t>(pass.unit_count));
  return Launch(Combine, grid, dim3(kCombineRows, kCombineParts), 0, stream, pass, args.exponent, args.softmax1);
}

}  // namespace kvsteward::engine::cuda
