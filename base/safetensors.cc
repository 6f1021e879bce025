#include "base/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

namespace kvsteward::safetensors {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are used in place, in little endian");

using Json = nlohmann::json;

constexpr size_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr int kMaxJsonDepth = 4;  // a tensor's shape is the deepest thing: header, tensor, list
constexpr size_t kDataAlignment = 8;

struct TypeInfo {
  Type type;
  const char* name;
  size_t bytes;
};
constexpr TypeInfo kTypes[] = {{Type::kF32, "F32", 4}, {Type::kF16, "F16", 2}, {Type::kBF16, "BF16", 2},
                               {Type::kI32, "I32", 4}, {Type::kI64, "I64", 8}, {Type::kU8, "U8", 1}};

const TypeInfo& Info(Type type) { return kTypes[static_cast<size_t>(type)]; }

// `a * b`, or nothing if it does not fit.
std::optional<uint64_t> Multiply(uint64_t a, uint64_t b) {
  uint64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

// A tensor's name or another text of the file, safe to print in one line.
std::string Quoted(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text.substr(0, 64)) quoted += c >= ' ' && c <= '~' ? c : '?';
  return quoted + "'";
}

// Parses the header. nlohmann keeps the last of duplicate keys without a word, so keys are watched while parsing.
absl::StatusOr<Json> ParseHeader(const char* begin, const char* end) {
  std::vector<std::set<std::string>> keys;  // of each open object
  std::string duplicate;
  bool too_deep = false;
  const Json::parser_callback_t watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    too_deep = too_deep || depth > kMaxJsonDepth;
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second) {
      duplicate = parsed.get<std::string>();
    }
    return !too_deep;
  };
  Json header = Json::parse(begin, end, watch, /*allow_exceptions=*/false);
  if (header.is_discarded() || too_deep || !header.is_object()) {
    return absl::InvalidArgumentError("its header is not a JSON object of tensors");
  }
  if (!duplicate.empty()) return absl::InvalidArgumentError("its header has the key " + Quoted(duplicate) + " twice");
  return header;
}

}  // namespace

size_t SizeOf(Type type) { return Info(type).bytes; }
const char* Name(Type type) { return Info(type).name; }

int64_t Tensor::elements() const {
  int64_t product = 1;
  for (const int64_t dimension : shape) product *= dimension;
  return product;
}

const Tensor* File::Find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

namespace {

// A tensor as the header describes it; `begin` and `end` count from the end of the header.
struct Described {
  Type type = Type::kF32;
  std::vector<int64_t> shape;
  uint64_t begin = 0;
  uint64_t end = 0;
};

absl::StatusOr<Described> Describe(const std::string& name, const Json& entry) {
  const auto refuse = [&](const std::string& why) {
    return absl::InvalidArgumentError("tensor " + Quoted(name) + " " + why);
  };
  if (!entry.is_object() || entry.size() != 3 || !entry.contains("dtype") || !entry.contains("shape") ||
      !entry.contains("data_offsets")) {
    return refuse("is described by other keys than dtype, shape and data_offsets");
  }
  Described tensor;
  const Json& dtype = entry["dtype"];
  const auto* type =
      std::find_if(std::begin(kTypes), std::end(kTypes), [&](const TypeInfo& t) { return dtype == t.name; });
  if (type == std::end(kTypes)) return refuse("has a dtype other than F32, F16, BF16, I32, I64 and U8");
  tensor.type = type->type;

  const Json& shape = entry["shape"];
  if (!shape.is_array()) return refuse("has a shape that is no list");
  std::optional<uint64_t> bytes = type->bytes;
  for (const Json& dimension : shape) {
    if (!dimension.is_number_unsigned()) return refuse("has a dimension that is no non-negative integer");
    bytes = Multiply(*bytes, dimension.get<uint64_t>());
    if (!bytes || dimension.get<uint64_t>() > std::numeric_limits<int64_t>::max()) {
      return refuse("has a shape whose size overflows");
    }
    tensor.shape.push_back(dimension.get<int64_t>());
  }

  const Json& offsets = entry["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
      !offsets[1].is_number_unsigned()) {
    return refuse("has data_offsets that are no pair of non-negative integers");
  }
  tensor.begin = offsets[0].get<uint64_t>();
  tensor.end = offsets[1].get<uint64_t>();
  if (tensor.end < tensor.begin || tensor.end - tensor.begin != *bytes) {
    return refuse("has data_offsets [" + std::to_string(tensor.begin) + ", " + std::to_string(tensor.end) +
                  "]; its dtype and shape need " + std::to_string(*bytes) + " bytes");
  }
  return tensor;
}

// Tensors must cover the data without gap or overlap.
absl::Status CheckTiling(const std::map<std::string, Described>& tensors, uint64_t data_bytes) {
  std::vector<std::pair<std::pair<uint64_t, uint64_t>, std::string>> ranges;
  for (const auto& [name, tensor] : tensors) ranges.push_back({{tensor.begin, tensor.end}, name});
  std::sort(ranges.begin(), ranges.end());
  uint64_t covered = 0;
  for (const auto& [range, name] : ranges) {
    if (range.second > data_bytes) {
      return absl::InvalidArgumentError("tensor " + Quoted(name) + " ends at byte " + std::to_string(range.second) +
                                        " of the data, which has " + std::to_string(data_bytes));
    }
    if (range.first != covered) {
      return absl::InvalidArgumentError("tensor " + Quoted(name) + " starts at byte " + std::to_string(range.first) +
                                        " of the data, but the one before it ends at " + std::to_string(covered));
    }
    covered = range.second;
  }
  if (covered != data_bytes) {
    return absl::InvalidArgumentError("its tensors cover " + std::to_string(covered) + " of " +
                                      std::to_string(data_bytes) + " bytes of data");
  }
  return absl::OkStatus();
}

absl::StatusOr<Mapping> MapFile(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) {
    const std::string why = std::strerror(errno);
    if (errno == ENOENT || errno == ENOTDIR) return absl::NotFoundError("it cannot be opened: " + why);
    return absl::InvalidArgumentError("it cannot be opened: " + why);
  }
  struct stat info {};
  if (fstat(fd.get(), &info) != 0 || !S_ISREG(info.st_mode)) return absl::InvalidArgumentError("it is no regular file");
  const auto bytes = static_cast<uint64_t>(info.st_size);
  if (bytes < kLengthBytes) {
    return absl::InvalidArgumentError("it has " + std::to_string(bytes) + " bytes, too few for a header");
  }
  void* data = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(std::string("it cannot be mapped: ") + std::strerror(errno));
  }
  return Mapping(data, bytes);
}

absl::Status WithPath(const absl::Status& status, const std::string& path) {
  return absl::Status(status.code(), path + ": " + std::string(status.message()));
}

}  // namespace

absl::StatusOr<File> File::Open(const std::string& path) {
  absl::StatusOr<File> file = Read(path);
  return file.ok() ? std::move(file) : WithPath(file.status(), path);
}

absl::StatusOr<File> File::Read(const std::string& path) {
  File file;
  absl::StatusOr<Mapping> mapping = MapFile(path);
  if (!mapping.ok()) return mapping.status();
  file.mapping_ = *std::move(mapping);

  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file.mapping_.data(), kLengthBytes);
  if (header_bytes > kMaxHeaderBytes) {
    return absl::InvalidArgumentError("its header has " + std::to_string(header_bytes) +
                                      " bytes; at most 100000000 are allowed");
  }
  if (header_bytes > file.mapping_.size() - kLengthBytes) {
    return absl::InvalidArgumentError("it is truncated: its header has " + std::to_string(header_bytes) +
                                      " bytes, but only " + std::to_string(file.mapping_.size() - kLengthBytes) +
                                      " follow");
  }
  const std::byte* data = file.mapping_.data() + kLengthBytes + header_bytes;
  const uint64_t data_bytes = file.mapping_.size() - kLengthBytes - header_bytes;

  const auto* text = reinterpret_cast<const char*>(file.mapping_.data() + kLengthBytes);
  absl::StatusOr<Json> header = ParseHeader(text, text + header_bytes);
  if (!header.ok()) return header.status();
  std::map<std::string, Described> described;
  for (const auto& [name, entry] : header->items()) {
    if (name == "__metadata__") {
      if (!entry.is_object()) return absl::InvalidArgumentError("its __metadata__ is no object");
      for (const auto& [key, value] : entry.items()) {
        if (!value.is_string()) {
          return absl::InvalidArgumentError("its __metadata__ has the key " + Quoted(key) + ", which is no string");
        }
        file.metadata_[key] = value.get<std::string>();
      }
      continue;
    }
    absl::StatusOr<Described> tensor = Describe(name, entry);
    if (!tensor.ok()) return tensor.status();
    described[name] = *std::move(tensor);
  }
  if (absl::Status status = CheckTiling(described, data_bytes); !status.ok()) return status;

  for (const auto& [name, tensor] : described) {
    std::span<const std::byte> bytes(data + tensor.begin, tensor.end - tensor.begin);
    if (reinterpret_cast<uintptr_t>(bytes.data()) % SizeOf(tensor.type) != 0) {
      bytes = file.copies_.emplace_back(bytes.begin(), bytes.end());
    }
    file.tensors_[name] = Tensor{tensor.type, tensor.shape, bytes};
  }
  return file;
}

namespace {

absl::Status WriteAll(int fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return absl::UnavailableError(std::strerror(errno));
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status WriteFile(const std::string& path, const std::string& header,
                       const std::vector<std::span<const std::byte>>& data) {
  const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666));
  if (!fd) return absl::UnavailableError(std::strerror(errno));
  if (absl::Status status = WriteAll(fd.get(), std::as_bytes(std::span(header))); !status.ok()) return status;
  for (const std::span<const std::byte> bytes : data) {
    if (absl::Status status = WriteAll(fd.get(), bytes); !status.ok()) return status;
  }
  if (fsync(fd.get()) != 0) return absl::UnavailableError(std::strerror(errno));
  return absl::OkStatus();
}

}  // namespace

absl::Status Write(const std::string& path, const std::map<std::string, Tensor>& tensors,
                   const std::map<std::string, std::string>& metadata) {
  // Wide elements first: then every tensor is aligned without gaps.
  std::vector<std::pair<size_t, std::string>> order;
  for (const auto& [name, tensor] : tensors) order.emplace_back(kDataAlignment - SizeOf(tensor.type), name);
  std::sort(order.begin(), order.end());

  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::vector<std::span<const std::byte>> data;
  uint64_t offset = 0;
  for (const auto& [unused, name] : order) {
    const Tensor& tensor = tensors.at(name);
    if (tensor.bytes.size() != static_cast<size_t>(tensor.elements()) * SizeOf(tensor.type)) {
      return absl::InvalidArgumentError(path + ": tensor " + Quoted(name) + " has " +
                                        std::to_string(tensor.bytes.size()) + " bytes, not what its shape needs");
    }
    header[name] = {{"dtype", Name(tensor.type)},
                    {"shape", tensor.shape},
                    {"data_offsets", {offset, offset + tensor.bytes.size()}}};
    data.push_back(tensor.bytes);
    offset += tensor.bytes.size();
  }
  std::string text = header.dump(-1, ' ', false, Json::error_handler_t::replace);
  text.resize((text.size() + kDataAlignment - 1) / kDataAlignment * kDataAlignment, ' ');
  const uint64_t header_bytes = text.size();
  text.insert(0, reinterpret_cast<const char*>(&header_bytes), kLengthBytes);

  const std::string temporary = path + ".tmp" + std::to_string(getpid());
  absl::Status status = WriteFile(temporary, text, data);
  if (status.ok() && std::rename(temporary.c_str(), path.c_str()) != 0) {
    status = absl::UnavailableError(std::strerror(errno));
  }
  if (status.ok()) return status;
  unlink(temporary.c_str());
  return absl::Status(status.code(), path + ": it cannot be written: " + std::string(status.message()));
}

}  // namespace kvsteward::safetensors
