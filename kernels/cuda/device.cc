#include "kernels/cuda/device.h"

#include <algorithm>
#include <utility>

namespace kvsteward::engine::cuda {
namespace {

constexpr size_t kLeastPinned = size_t{4} << 20;
constexpr size_t kAlignment = 256;
constexpr uint64_t kPoolKeeps = uint64_t{256} << 20;  // bytes that freed scratch memory may stay with this process

size_t Align(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

absl::StatusOr<std::shared_ptr<Device>> Device::Open(int ordinal, std::function<void(const std::string&)> on_lost) {
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    return absl::FailedPreconditionError(std::string("no CUDA device can be used: ") + cudaGetErrorString(error));
  }
  if (ordinal < 0 || ordinal >= count) {
    return absl::FailedPreconditionError("there is no CUDA device " + std::to_string(ordinal) + "; this machine has " +
                                         std::to_string(count));
  }
  std::shared_ptr<Device> device(new Device(ordinal, std::move(on_lost)));
  KVS_RETURN_IF_ERROR(device->Use());
  KVS_RETURN_IF_ERROR(
      device->Check(cudaStreamCreateWithFlags(&device->stream_, cudaStreamNonBlocking), "the engine's stream"));
  for (cudaEvent_t& mark : device->marks_) KVS_RETURN_IF_ERROR(device->Check(cudaEventCreate(&mark), "a mark"));
  cudaMemPool_t pool = nullptr;
  KVS_RETURN_IF_ERROR(device->Check(cudaDeviceGetDefaultMemPool(&pool, ordinal), "the device's memory pool"));
  uint64_t keeps = kPoolKeeps;
  KVS_RETURN_IF_ERROR(
      device->Check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keeps), "the memory pool's limit"));
  return device;
}

Device::~Device() {
  if (cudaSetDevice(ordinal_) != cudaSuccess) return;  // the driver has ended with the process
  for (cudaEvent_t mark : marks_) {
    if (mark != nullptr) cudaEventDestroy(mark);
  }
  if (stream_ != nullptr) {
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
  }
  for (std::byte* each : outgrown_) cudaFreeHost(each);
  cudaFreeHost(pinned_);
}

absl::Status Device::Use() { return Check(cudaSetDevice(ordinal_), "the device"); }

absl::Status Device::Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return absl::OkStatus();
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // it is not sticky
    return absl::ResourceExhaustedError(std::string("the device has too little memory left for ") + what +
                                        "; leave more of it outside of arena.bytes, or evict earlier");
  }
  const std::string name = cudaGetErrorName(error);
  if (error == cudaErrorInvalidValue || error == cudaErrorInvalidConfiguration || error == cudaErrorNotSupported) {
    cudaGetLastError();  // nor are these: nothing ran
    return absl::InvalidArgumentError(std::string("the device cannot make ") + what + " in such sizes (" + name +
                                      "); use fewer tokens, layers or query rows");
  }
  if (on_lost_) on_lost_(name);
  return absl::UnavailableError("the device is lost: " + name + " at " + what);
}

absl::Status Device::Mark(size_t which) { return Check(cudaEventRecord(marks_[which], stream_), "a mark"); }

double Device::SecondsBetween(size_t from, size_t to) const {
  float milliseconds = 0;
  cudaEventElapsedTime(&milliseconds, marks_[from], marks_[to]);
  return static_cast<double>(milliseconds) / 1e3;
}

absl::Status Device::Wait() { return Check(cudaStreamSynchronize(stream_), "the engine's kernels"); }

absl::Status Device::Synchronize() {
  KVS_RETURN_IF_ERROR(Wait());
  for (std::byte* each : outgrown_) cudaFreeHost(each);
  outgrown_.clear();
  pinned_used_ = 0;
  return absl::OkStatus();
}

absl::StatusOr<std::byte*> Device::Pinned(size_t bytes) {
  if (Align(bytes) > pinned_bytes_ - pinned_used_) {
    const size_t wanted = std::max({kLeastPinned, 2 * pinned_bytes_, Align(bytes)});
    std::byte* grown = nullptr;
    KVS_RETURN_IF_ERROR(Check(cudaMallocHost(reinterpret_cast<void**>(&grown), wanted), "pinned host memory"));
    if (pinned_ != nullptr) outgrown_.push_back(pinned_);
    pinned_ = grown;
    pinned_bytes_ = wanted;
    pinned_used_ = 0;
  }
  std::byte* const pinned = pinned_ + pinned_used_;
  pinned_used_ += Align(bytes);
  return pinned;
}

absl::StatusOr<DeviceArray> DeviceArray::Allocate(std::shared_ptr<Device> device, size_t bytes, const char* what) {
  DeviceArray array;
  void* data = nullptr;
  KVS_RETURN_IF_ERROR(device->Check(cudaMallocAsync(&data, std::max<size_t>(bytes, 1), device->stream()), what));
  array.data_ = static_cast<std::byte*>(data);
  array.device_ = std::move(device);
  return array;
}

DeviceArray::~DeviceArray() {
  if (data_ == nullptr) return;
  if (device_->Use().ok()) cudaFreeAsync(data_, device_->stream());
}

DeviceArray::DeviceArray(DeviceArray&& other) noexcept
    : device_(std::move(other.device_)), data_(std::exchange(other.data_, nullptr)) {}

DeviceArray& DeviceArray::operator=(DeviceArray&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  return *this;
}

}  // namespace kvsteward::engine::cuda
