// What the GPU tests share: checks that count failures, a deterministic generator, and device memory that frees itself.
// Standalone on purpose: a test is one program that runs on a bare machine. Its main ends with `return TestResult()`.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <vector>

namespace kvsteward::gpu_test {

// Whether device code runs on the CPU (tests/emulation): then some sizes are smaller.
#ifdef KVSTEWARD_CUDA_EMULATED
inline constexpr bool kEmulated = true;
#else
inline constexpr bool kEmulated = false;
#endif

inline int failures = 0;
inline int checks = 0;

// Counts; the first 20 failures are printed.
inline bool Check(bool passed, const char* file, int line, const char* what) {
  ++checks;
  if (!passed && ++failures <= 20) std::printf("%s:%d: FAILED: %s\n", file, line, what);
  return passed;
}

inline bool CheckCuda(cudaError_t error, const char* file, int line, const char* what) {
  const bool passed = Check(error == cudaSuccess, file, line, what);
  if (!passed && failures <= 20) std::printf("  %s: %s\n", cudaGetErrorName(error), cudaGetErrorString(error));
  return passed;
}

inline int TestResult() {
  std::printf("%s: %d checks, %d failures\n", failures == 0 && checks > 0 ? "PASSED" : "FAILED", checks, failures);
  return failures == 0 && checks > 0 ? 0 : 1;
}

// Whether only small cases are wanted: under a sanitizer they take hundreds of times as long.
inline bool Small() { return std::getenv("KVSTEWARD_GPU_TEST_SMALL") != nullptr; }

#define CHECK(condition) ::kvsteward::gpu_test::Check((condition), __FILE__, __LINE__, #condition)
#define CHECK_CUDA(call) ::kvsteward::gpu_test::CheckCuda((call), __FILE__, __LINE__, #call)

// SplitMix64: the same numbers everywhere.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  // In [0, bound). REQUIRES: bound > 0.
  uint64_t Below(uint64_t bound) { return Next() % bound; }
  // In [0, 1), 24 bits of it.
  float Uniform() { return static_cast<float>(Next() >> 40) * 0x1p-24f; }

 private:
  uint64_t state_;
};

// `count` values in device memory, copied in and out whole. Never empty, so that its pointer is never null.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t count) : count_(count) {
    CHECK_CUDA(cudaMalloc(reinterpret_cast<void**>(&data_), (count > 0 ? count : 1) * sizeof(T)));
  }
  explicit DeviceArray(std::span<const T> values) : DeviceArray(values.size()) { Write(values); }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(std::span<const T>(values)) {}
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() const { return data_; }
  size_t size() const { return count_; }
  void Write(std::span<const T> values) {
    CHECK(values.size() <= count_);
    if (!values.empty()) CHECK_CUDA(cudaMemcpy(data_, values.data(), values.size_bytes(), cudaMemcpyHostToDevice));
  }
  std::vector<T> Read() const {
    std::vector<T> values(count_);
    if (count_ > 0) CHECK_CUDA(cudaMemcpy(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  T* data_ = nullptr;
  size_t count_;
};

}  // namespace kvsteward::gpu_test
