#include "client/worker/cuda/cuda_attention.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <string>
#include <utility>

#include "base/run.h"
#include "client/worker/cuda/paged_append.h"

namespace kvsteward::worker {
namespace {

constexpr size_t kAlignment = 256;
constexpr int kNoBlock = 0xff;  // bytes of a block number that no cache has

absl::Status ToStatus(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return absl::OkStatus();
  const std::string text = std::string(what) + " failed: " + cudaGetErrorName(error) + ", " + cudaGetErrorString(error);
  return error == cudaErrorMemoryAllocation ? absl::ResourceExhaustedError(text) : absl::UnavailableError(text);
}

template <class Pointer>
absl::Status Allocate(size_t bytes, Pointer& memory) {
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, std::max<size_t>(bytes, 1));
  memory.reset(static_cast<std::byte*>(data));
  return ToStatus(error, "allocating device memory for attention");
}

template <class Pointer>
absl::Status AllocatePinned(size_t bytes, Pointer& memory) {
  void* data = nullptr;
  const cudaError_t error = cudaMallocHost(&data, bytes);
  memory.reset(static_cast<std::byte*>(data));
  return ToStatus(error, "allocating pinned memory for attention");
}

// Room for `longest` residents and as many tokens as a pass has.
cuda::PagedAttentionArgs ArgsOf(const ModelConfig& config, uint32_t longest, uint32_t tokens) {
  cuda::PagedAttentionArgs args;
  args.cache.block_bytes = size_t{2} * kBlockTokens * config.head_dim * sizeof(float);
  args.cache.dtype = engine::DType::kF32;
  args.cache.head_dim = static_cast<int32_t>(config.head_dim);
  args.cache.rows = static_cast<int32_t>(config.kv_heads);
  args.longest = static_cast<int32_t>(longest);
  args.tokens = static_cast<int32_t>(tokens);
  args.group = static_cast<int32_t>(config.group());
  return args;
}

}  // namespace

CudaAttention::CudaAttention(const ModelConfig& config, int device)
    : config_(config),
      device_(device),
      row_blocks_(BlocksFor(config.max_positions)),
      lengths_bytes_((config.kv_heads * sizeof(int32_t) + kAlignment - 1) / kAlignment * kAlignment) {}

absl::StatusOr<std::unique_ptr<CudaAttention>> CudaAttention::Open(const ModelConfig& config, int device) {
  if (config.head_dim % 8 != 0 || config.head_dim > cuda::kMostHeadDim) {
    return absl::InvalidArgumentError("head_dim is " + std::to_string(config.head_dim) +
                                      ": attention on CUDA needs a multiple of 8 up to " +
                                      std::to_string(cuda::kMostHeadDim) + ", use the host");
  }
  if (absl::Status status = ToStatus(cudaSetDevice(device), "choosing the device"); !status.ok()) return status;
  std::unique_ptr<CudaAttention> attention(new CudaAttention(config, device));
  if (absl::Status status = attention->Allocate(); !status.ok()) return status;
  return attention;
}

absl::Status CudaAttention::Allocate() {
  const size_t rows = size_t{config_.units()} * row_blocks_ * sizeof(uint32_t);
  const size_t input = lengths_bytes_ + kMaxPassTokens * QkvWidth() * sizeof(float);
  const size_t output = size_t{kMaxPassTokens} * config_.query_width() * sizeof(float);
  const size_t workspace = PagedAttentionWorkspace(ArgsOf(config_, config_.max_positions, kMaxPassTokens));
  absl::Status status = worker::Allocate(rows, rows_);
  if (status.ok()) status = worker::Allocate(input, input_);
  if (status.ok()) status = worker::Allocate(output, output_);
  if (status.ok()) status = worker::Allocate(workspace, workspace_);
  if (status.ok()) status = AllocatePinned(rows, host_rows_);
  if (status.ok()) status = AllocatePinned(input, host_input_);
  if (status.ok()) status = AllocatePinned(output, host_output_);
  if (!status.ok()) return status;
  cudaStream_t stream = nullptr;
  cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  stream_.reset(stream);
  if (error == cudaSuccess) error = cudaMemsetAsync(rows_.get(), kNoBlock, rows, stream);
  if (error == cudaSuccess) error = cudaStreamSynchronize(stream);
  std::memset(host_rows_.get(), kNoBlock, rows);
  return ToStatus(error, "starting attention");
}

absl::Status CudaAttention::Run(const KvCache& cache, const LayerPass& pass) {
  if (absl::Status status = ToStatus(cudaSetDevice(device_), "choosing the device"); !status.ok()) return status;
  const size_t input = pass.tokens * QkvWidth() * sizeof(float);
  const size_t output = size_t{pass.tokens} * config_.query_width() * sizeof(float);
  std::memcpy(host_input_.get() + lengths_bytes_, pass.qkv, input);
  absl::Status status = UpdateRows(cache, pass);
  if (status.ok()) status = ToStatus(Start(cache, pass), "attention on the device");
  // Whatever has started, even then.
  status.Update(ToStatus(cudaStreamSynchronize(stream_.get()), "attention on the device"));
  if (!status.ok()) return status;
  std::memcpy(pass.attended, host_output_.get(), output);
  return absl::OkStatus();
}

// Copies the columns of the layer's rows that have changed: a block more for every row is one column.
absl::Status CudaAttention::UpdateRows(const KvCache& cache, const LayerPass& pass) {
  const float* const base = cache.Block(0);
  const size_t block_floats = size_t{2} * kBlockTokens * config_.head_dim;
  const size_t first_unit = size_t{pass.layer} * config_.kv_heads;
  auto* const layer = reinterpret_cast<uint32_t*>(host_rows_.get()) + first_unit * row_blocks_;
  size_t begin = row_blocks_;
  size_t end = 0;
  absl::Status status;
  for (uint32_t head = 0; head < config_.kv_heads; ++head) {
    const auto unit = static_cast<uint32_t>(first_unit + head);
    const auto row = BlocksOf(cache, unit, pass.FirstSlot(cache.Residents(unit)) + pass.tokens);
    status.Update(row.status());
    if (row.ok() && row->size() > row_blocks_) {
      status.Update(absl::InternalError("unit " + std::to_string(unit) + " has " + std::to_string(row->size()) +
                                        " blocks where the model's longest row has " + std::to_string(row_blocks_)));
    }
    for (size_t i = 0; status.ok() && i < row->size(); ++i) {
      const uint32_t block = (*row)[i];
      uint32_t& known = layer[head * size_t{row_blocks_} + i];
      if (known == block) continue;
      if (cache.Block(block) == nullptr || cache.Block(block) != base + block * block_floats) {
        status.Update(absl::InternalError("unit " + std::to_string(unit) + " names block " + std::to_string(block) +
                                          ", which does not exist"));
        break;
      }
      known = block;
      begin = std::min(begin, i);
      end = i + 1 > end ? i + 1 : end;
    }
  }
  if (begin >= end) return status;
  const size_t pitch = row_blocks_ * sizeof(uint32_t);
  status.Update(ToStatus(
      cudaMemcpy2DAsync(rows_.get() + first_unit * pitch + begin * sizeof(uint32_t), pitch, layer + begin, pitch,
                        (end - begin) * sizeof(uint32_t), config_.kv_heads, cudaMemcpyHostToDevice, stream_.get()),
      "copying the rows of blocks to the device"));
  return status;
}

cudaError_t CudaAttention::Start(const KvCache& cache, const LayerPass& pass) {
  auto* const lengths = reinterpret_cast<int32_t*>(host_input_.get());
  uint32_t longest = 0;
  for (uint32_t head = 0; head < config_.kv_heads; ++head) {
    const uint32_t length = pass.FirstSlot(cache.Residents(pass.layer * config_.kv_heads + head)) + 1;
    lengths[head] = static_cast<int32_t>(length);
    longest = std::max(longest, length);
  }
  cuda::PagedAttentionArgs args = ArgsOf(config_, longest, pass.tokens);
  args.cache.data = reinterpret_cast<std::byte*>(cache.Block(0));
  args.cache.blocks =
      reinterpret_cast<const uint32_t*>(rows_.get()) + size_t{pass.layer} * config_.kv_heads * row_blocks_;
  args.cache.block_stride = static_cast<int32_t>(row_blocks_);
  args.cache.length = reinterpret_cast<const int32_t*>(input_.get());
  args.queries = reinterpret_cast<const float*>(input_.get() + lengths_bytes_);
  args.query_stride = static_cast<int64_t>(QkvWidth());
  args.out = reinterpret_cast<float*>(output_.get());
  args.out_stride = config_.query_width();
  args.workspace = reinterpret_cast<float*>(workspace_.get());
  const float* const keys = args.queries + config_.query_width();
  const cuda::PagedAppendArgs append = {.cache = args.cache,
                                        .tokens = args.tokens,
                                        .keys = keys,
                                        .values = keys + config_.kv_width(),
                                        .token_stride = args.query_stride};

  const size_t input = lengths_bytes_ + pass.tokens * QkvWidth() * sizeof(float);
  const size_t output = size_t{pass.tokens} * config_.query_width() * sizeof(float);
  cudaStream_t stream = stream_.get();
  cudaError_t error = cudaMemcpyAsync(input_.get(), host_input_.get(), input, cudaMemcpyHostToDevice, stream);
  if (error == cudaSuccess) error = LaunchPagedAppend(append, stream);
  if (error == cudaSuccess) error = LaunchPagedAttention(args, stream);
  if (error != cudaSuccess) return error;
  return cudaMemcpyAsync(host_output_.get(), output_.get(), output, cudaMemcpyDeviceToHost, stream);
}

}  // namespace kvsteward::worker
