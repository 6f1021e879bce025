#include "kernels/cuda/host_mirror.h"

#include <algorithm>
#include <utility>

namespace kvsteward::engine::cuda {
namespace {

uint32_t BlocksFor(int32_t tokens) { return (static_cast<uint32_t>(tokens) + kBlockTokens - 1) / kBlockTokens; }

}  // namespace

HostMirror::HostMirror(std::shared_ptr<Device> device, const SequenceView& sequence, const Policy& policy)
    : device_(std::move(device)), original_(sequence), mirrored_(sequence) {
  uint32_t blocks = 0;
  for (const UnitView& unit : sequence.units) {
    rows_.push_back({blocks, BlocksFor(unit.length)});
    blocks += rows_.back().count;
  }
  if (policy.reads_norms()) mirrored_.normed_kind = policy.norm();
  for (size_t u = 0; u < sequence.units.size(); ++u) {
    units_.push_back(sequence.units[u]);
    units_.back().row = std::span(&rows_[u], 1);
    if (mirrored_.normed_kind != sequence.normed_kind) units_.back().normed = 0;
  }
  const size_t tokens = static_cast<size_t>(blocks) * kBlockTokens;
  positions_.resize(tokens);
  norms_.resize(policy.reads_norms() ? tokens : 0);
  running_.resize(policy.running() ? tokens : 0);
  mirrored_.units = units_;
  mirrored_.pool = {.data = nullptr,
                    .block_bytes = sequence.pool.block_bytes,
                    .positions = positions_.data(),
                    .norms = norms_.data(),
                    .running = running_.data()};
}

absl::StatusOr<std::unique_ptr<HostMirror>> HostMirror::Make(std::shared_ptr<Device> device,
                                                             const SequenceView& sequence, const Policy& policy) {
  std::unique_ptr<HostMirror> mirror(new HostMirror(std::move(device), sequence, policy));
  const PoolView& pool = sequence.pool;
  const bool normed = policy.reads_norms() && sequence.normed_kind == policy.norm();
  for (size_t u = 0; u < sequence.units.size(); ++u) {
    const UnitView& unit = sequence.units[u];
    KVS_RETURN_IF_ERROR(
        mirror->CopySide(u, unit.stored, pool.positions, mirror->positions_.data(), cudaMemcpyDeviceToHost));
    if (normed) {
      KVS_RETURN_IF_ERROR(mirror->CopySide(u, unit.normed, pool.norms, mirror->norms_.data(), cudaMemcpyDeviceToHost));
    }
    if (policy.running()) {
      KVS_RETURN_IF_ERROR(
          mirror->CopySide(u, unit.scored, pool.running, mirror->running_.data(), cudaMemcpyDeviceToHost));
    }
  }
  KVS_RETURN_IF_ERROR(mirror->device_->Synchronize());
  return mirror;
}

absl::Status HostMirror::CopyBlocks(size_t u, int32_t tokens, size_t block_bytes, size_t bytes_of_block,
                                    std::byte* on_device, std::byte* on_host, uint32_t first_on_host,
                                    cudaMemcpyKind kind) {
  uint32_t left = BlocksFor(tokens);
  std::byte* host = on_host + (size_t{rows_[u].first} - first_on_host) * block_bytes;
  for (const Run& run : original_.units[u].row) {
    const uint32_t count = std::min(left, run.count);
    if (count == 0) continue;
    std::byte* const device = on_device + size_t{run.first} * block_bytes;
    const bool down = kind == cudaMemcpyDeviceToHost;
    KVS_RETURN_IF_ERROR(device_->Check(cudaMemcpy2DAsync(down ? host : device, block_bytes, down ? device : host,
                                                         block_bytes, bytes_of_block, count, kind, device_->stream()),
                                       "the copy of a sequence for the host engine"));
    host += count * block_bytes;
    left -= count;
  }
  return absl::OkStatus();
}

absl::Status HostMirror::CopySide(size_t u, int32_t tokens, void* on_device, void* on_host, cudaMemcpyKind kind) {
  constexpr size_t kBytes = kBlockTokens * sizeof(float);
  return CopyBlocks(u, tokens, kBytes, kBytes, static_cast<std::byte*>(on_device), static_cast<std::byte*>(on_host), 0,
                    kind);
}

absl::Status HostMirror::LoadLayer(int32_t layer, bool keys, bool values) {
  if (!keys && !values) return absl::OkStatus();
  const auto heads = static_cast<size_t>(original_.geometry.kv_heads);
  const size_t first = static_cast<size_t>(layer) * heads;
  const size_t block_bytes = original_.pool.block_bytes;
  first_block_ = rows_[first].first;
  const Run& last = rows_[first + heads - 1];
  const size_t bytes = (size_t{last.first} + last.count - first_block_) * block_bytes;
  if (blocks_.size() < bytes) blocks_.resize(bytes);
  const size_t half = block_bytes / 2;
  const size_t skipped = keys ? 0 : half;
  for (size_t u = first; u < first + heads; ++u) {
    KVS_RETURN_IF_ERROR(CopyBlocks(u, original_.units[u].length, block_bytes, keys && values ? block_bytes : half,
                                   original_.pool.data + skipped, blocks_.data() + skipped, first_block_,
                                   cudaMemcpyDeviceToHost));
  }
  return device_->Synchronize();
}

SequenceView HostMirror::loaded() const {
  SequenceView view = mirrored_;
  // Blocks are numbered through all layers, memory holds one of them.
  view.pool.data = reinterpret_cast<std::byte*>(reinterpret_cast<uintptr_t>(blocks_.data()) -
                                                size_t{first_block_} * original_.pool.block_bytes);
  return view;
}

absl::Status HostMirror::LoadNorms(int32_t layer) {
  const auto heads = static_cast<size_t>(original_.geometry.kv_heads);
  for (size_t u = static_cast<size_t>(layer) * heads; u < (static_cast<size_t>(layer) + 1) * heads; ++u) {
    KVS_RETURN_IF_ERROR(
        CopySide(u, original_.units[u].length, original_.pool.norms, norms_.data(), cudaMemcpyDeviceToHost));
    units_[u].normed = units_[u].length;
  }
  return device_->Synchronize();
}

absl::Status HostMirror::StoreNorms(int32_t layer) {
  const auto heads = static_cast<size_t>(original_.geometry.kv_heads);
  for (size_t u = static_cast<size_t>(layer) * heads; u < (static_cast<size_t>(layer) + 1) * heads; ++u) {
    KVS_RETURN_IF_ERROR(
        CopySide(u, original_.units[u].length, original_.pool.norms, norms_.data(), cudaMemcpyHostToDevice));
  }
  return device_->Synchronize();
}

absl::Status HostMirror::StoreRunning(int32_t layer, std::span<const float> running) {
  const auto heads = static_cast<size_t>(original_.geometry.kv_heads);
  for (size_t u = static_cast<size_t>(layer) * heads; u < (static_cast<size_t>(layer) + 1) * heads; ++u) {
    const auto length = static_cast<size_t>(original_.units[u].length);
    std::ranges::copy(running.first(length),
                      running_.begin() + static_cast<std::ptrdiff_t>(size_t{rows_[u].first} * kBlockTokens));
    running = running.subspan(length);
    KVS_RETURN_IF_ERROR(
        CopySide(u, original_.units[u].length, original_.pool.running, running_.data(), cudaMemcpyHostToDevice));
  }
  return device_->Synchronize();
}

}  // namespace kvsteward::engine::cuda
