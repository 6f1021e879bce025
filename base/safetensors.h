// Reading and writing safetensors files: an 8-byte little-endian header length, a JSON header, then the tensors' bytes.
// Everything a file says is checked before it is believed. Values; a File is immutable and thread-safe to read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace kvsteward::safetensors {

enum class Type { kF32, kF16, kBF16, kI32, kI64, kU8 };
size_t SizeOf(Type type);
const char* Name(Type type);

struct Tensor {
  Type type = Type::kF32;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;  // C order, little endian; aligned to its element

  int64_t elements() const;
};

// A file mapped read-only. The file must not be truncated while it is open.
class File {
 public:
  // INVALID_ARGUMENT, in one sentence with the path, for anything malformed: truncated, header over 100 MB, no JSON,
  // unknown type, negative or overflowing shape, offsets that overlap, leave gaps or lie out of range. Tensors of types
  // that we do not know are refused as well. NOT_FOUND if there is no such file.
  static absl::StatusOr<File> Open(const std::string& path);

  const std::map<std::string, Tensor>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  // nullptr if absent.
  const Tensor* Find(const std::string& name) const;

 private:
  // As Open; its errors lack the path.
  static absl::StatusOr<File> Read(const std::string& path);

  Mapping mapping_;
  std::vector<std::vector<std::byte>> copies_;  // of tensors that the file does not align
  std::map<std::string, Tensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

// Writes `path` atomically (a temporary file beside it, then a rename).
absl::Status Write(const std::string& path, const std::map<std::string, Tensor>& tensors,
                   const std::map<std::string, std::string>& metadata);

}  // namespace kvsteward::safetensors
