// How scoring is cut into launches.
#include "kernels/cuda/score.h"

#include <algorithm>

#include "kernels/cuda/score_pass.h"

namespace kvsteward::engine::cuda {
namespace {

constexpr double kLeastScore = 0x1p-100;  // scores below it become +0
constexpr int32_t kOctetRows = 8;

int32_t UnitsAtATime(const ScoreArgs& args, int32_t units_at_a_time) {
  return units_at_a_time > 0 ? std::min(units_at_a_time, args.units.units) : args.units.units;
}

RowFold FoldOf(const ScoreArgs& args, int32_t head_rows) {
  if (args.max_rows) return RowFold::kMax;
  return head_rows % kSliceRows == 0 ? RowFold::kSumSlices : RowFold::kSumOctets;
}

// A group's part of the work, but for the group and the workspace.
ScorePass Cut(const ScoreArgs& args) {
  ScorePass pass;
  pass.pool = args.pool;
  pass.units = args.units;
  pass.head_dim = args.head_dim;
  pass.queries = args.queries;
  pass.group = args.group;
  pass.window_rows = args.window_rows;
  pass.first_row = args.first_row;
  pass.rows = args.rows;
  pass.head_rows = (args.rows + kOctetRows - 1) / kOctetRows * kOctetRows;
  pass.row_blocks = (args.group * pass.head_rows + kBlockRows - 1) / kBlockRows;
  pass.chunks = static_cast<int32_t>((int64_t{args.units.longest} + kChunkKeys - 1) / kChunkKeys);
  const double rows = args.mean_rows && !args.max_rows ? args.rows : 1;
  const double heads = args.mean_heads && !args.max_heads ? args.group : 1;
  pass.max_heads = args.max_heads;
  pass.least = static_cast<float>(kLeastScore * rows);
  pass.factor = static_cast<float>(1 / (rows * heads));
  pass.attention_factor = static_cast<float>(1 / (static_cast<double>(args.group) * args.rows));
  pass.scores = args.scores;
  pass.attention = args.attention;
  pass.bad = args.bad;
  return pass;
}

bool OnTensorCores(const ScoreArgs& args) {
  return args.dtype != DType::kF32 && args.query_dtype == args.dtype && args.head_dim % 16 == 0 && args.head_dim <= 256;
}

bool Aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

}  // namespace

int32_t UnitsWithinWorkspace(const ScoreArgs& args) {
  constexpr size_t kMostBytes = size_t{64} << 20;
  const size_t each = std::max<size_t>(1, ScoreWorkspaceBytes(args, 1));
  const size_t most = std::min(
      {kMostBytes / each, static_cast<size_t>(std::max(args.units.units, 1)), static_cast<size_t>(kMostGridUnits)});
  return static_cast<int32_t>(std::max<size_t>(1, most));
}

size_t ScoreWorkspaceBytes(const ScoreArgs& args, int32_t units_at_a_time) {
  const ScorePass pass = Cut(args);
  const size_t rows =
      static_cast<size_t>(UnitsAtATime(args, units_at_a_time)) * static_cast<size_t>(pass.padded_rows());
  const size_t chunks = args.log_normaliser == nullptr ? static_cast<size_t>(pass.chunks) : 0;
  return rows * (sizeof(RowTerm) + 2 * sizeof(float) * chunks);
}

cudaError_t LaunchScore(const ScoreArgs& args, int32_t units_at_a_time, void* workspace, cudaStream_t stream) {
  if (args.units.units <= 0 || args.units.longest <= 0) return cudaSuccess;
  if (args.rows < 1 || args.group < 1 || args.head_dim < 1) return cudaErrorInvalidValue;
  if (!Aligned(args.pool.data) || !Aligned(args.queries) || !Aligned(workspace)) return cudaErrorMisalignedAddress;
  ScorePass pass = Cut(args);
  const int32_t at_a_time = UnitsAtATime(args, units_at_a_time);
  const size_t rows = static_cast<size_t>(at_a_time) * static_cast<size_t>(pass.padded_rows());
  pass.terms = static_cast<RowTerm*>(workspace);
  pass.chunk_max = reinterpret_cast<float*>(pass.terms + rows);
  pass.chunk_sum = pass.chunk_max + rows * static_cast<size_t>(pass.chunks);
  const bool mma = OnTensorCores(args);
  const bool bf16 = args.dtype == DType::kBF16;
  const RowFold fold = FoldOf(args, pass.head_rows);
  for (pass.first_unit = 0; pass.first_unit < args.units.units; pass.first_unit += at_a_time) {
    pass.unit_count = std::min(at_a_time, args.units.units - pass.first_unit);
    cudaError_t error = LaunchRowTerms(args, pass, stream);
    if (error == cudaSuccess && args.log_normaliser == nullptr) {
      error = mma ? LaunchReduceOnTensorCores(pass, bf16, stream)
                  : LaunchReducePlain(pass, args.dtype, args.query_dtype, stream);
      if (error == cudaSuccess) error = LaunchCombine(args, pass, stream);
    }
    if (error != cudaSuccess) return error;
    error = mma ? LaunchFoldOnTensorCores(pass, bf16, fold, stream)
                : LaunchFoldPlain(pass, args.dtype, args.query_dtype, fold, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace kvsteward::engine::cuda
