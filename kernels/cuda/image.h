// Device memory that is laid out once: arrays that go up in one copy, and room behind them. Built by one thread: first
// all Add, then all Room, then Allocate, fill the host's side, then Send.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "kernels/cuda/device.h"

namespace kvsteward::engine::cuda {

template <class T>
struct ImagePart {
  size_t offset = 0;
  size_t count = 0;
};

class Image {
 public:
  // An array that goes up.
  template <class T>
  ImagePart<T> Add(size_t count) {
    const ImagePart<T> part = Room<T>(count);
    sent_ = bytes_;
    return part;
  }
  // Memory that is not initialised.
  template <class T>
  ImagePart<T> Room(size_t count) {
    const ImagePart<T> part{bytes_, count};
    bytes_ += (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return part;
  }

  // RESOURCE_EXHAUSTED naming `what`.
  absl::Status Allocate(const std::shared_ptr<Device>& device, const char* what) {
    absl::StatusOr<DeviceArray> memory = DeviceArray::Allocate(device, bytes_, what);
    if (!memory.ok()) return memory.status();
    absl::StatusOr<std::byte*> pinned = device->Pinned(sent_);
    if (!pinned.ok()) return pinned.status();
    memory_ = *std::move(memory);
    pinned_ = *pinned;
    return absl::OkStatus();
  }
  // The host's side of a part that goes up, until Send's copy has ended.
  template <class T>
  std::span<T> host(const ImagePart<T>& part) const {
    return {reinterpret_cast<T*>(pinned_ + part.offset), part.count};
  }
  template <class T>
  T* on_device(const ImagePart<T>& part) const {
    return reinterpret_cast<T*>(memory_.data() + part.offset);
  }
  absl::Status Send(Device& device) const {
    return device.Check(cudaMemcpyAsync(memory_.data(), pinned_, sent_, cudaMemcpyHostToDevice, device.stream()),
                        "the copy of a sequence's tables");
  }

 private:
  static constexpr size_t kAlignment = 256;
  size_t bytes_ = 0;
  size_t sent_ = 0;
  std::byte* pinned_ = nullptr;
  DeviceArray memory_;
};

}  // namespace kvsteward::engine::cuda
