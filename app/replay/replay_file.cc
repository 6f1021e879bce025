#include "app/replay/replay_file.h"

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <numeric>
#include <utility>

namespace kvsteward::replay {
namespace {

using engine::DType;
using safetensors::Tensor;
using safetensors::Type;

// More residents than any model has; a small file without keys could claim more than memory holds.
constexpr int64_t kMaxResidents = int64_t{1} << 30;

absl::Status Wrong(const std::string& tensor, const std::string& why) {
  return absl::InvalidArgumentError("tensor '" + tensor + "' " + why);
}

// A dimension that several tensors share; the first one that has it defines it.
struct Dimension {
  std::string name;
  int64_t size = 0;  // 0: not known yet
  std::string tensor = "";
};

class Loader {
 public:
  explicit Loader(ReplayInput* input) : input_(*input) {}

  absl::Status Load() {
    for (absl::Status (Loader::*step)() :
         {&Loader::LoadKeysAndValues, &Loader::LoadQueries, &Loader::FindShapes, &Loader::SetGeometry,
          &Loader::LoadLengths, &Loader::LoadPositions, &Loader::LoadQueryPositions, &Loader::LoadInputs}) {
      if (absl::Status status = (this->*step)(); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

 private:
  const Tensor* Find(const char* name) const { return input_.file.Find(name); }

  // The shape of a tensor must be made of these dimensions.
  static absl::Status Bind(const std::string& name, const Tensor& tensor,
                           std::initializer_list<Dimension*> dimensions) {
    if (tensor.shape.size() != dimensions.size()) {
      std::string expected;
      for (const Dimension* dimension : dimensions) expected += (expected.empty() ? "" : ", ") + dimension->name;
      return Wrong(name, "has " + std::to_string(tensor.shape.size()) + " dimensions; it must be [" + expected + "]");
    }
    auto size = tensor.shape.begin();
    for (Dimension* dimension : dimensions) {
      if (*size < 1 || *size > std::numeric_limits<int32_t>::max()) {
        return Wrong(name,
                     "has " + dimension->name + " = " + std::to_string(*size) + "; it must be from 1 to 2^31 - 1");
      }
      if (dimension->size == 0) {
        dimension->size = *size;
        dimension->tensor = name;
      } else if (dimension->size != *size) {
        return Wrong(name, "has " + dimension->name + " = " + std::to_string(*size) + ", but tensor '" +
                               dimension->tensor + "' has " + std::to_string(dimension->size));
      }
      ++size;
    }
    return absl::OkStatus();
  }

  static absl::Status ReadNumbers(const std::string& name, const Tensor& tensor, DType* dtype,
                                  std::span<const std::byte>* bytes) {
    switch (tensor.type) {
      case Type::kF32:
        *dtype = DType::kF32;
        break;
      case Type::kF16:
        *dtype = DType::kF16;
        break;
      case Type::kBF16:
        *dtype = DType::kBF16;
        break;
      default:
        return Wrong(name, std::string("is ") + safetensors::Name(tensor.type) + "; it must be F32, F16 or BF16");
    }
    *bytes = tensor.bytes;
    return absl::OkStatus();
  }

  static absl::Status ReadIntegers(const std::string& name, const Tensor& tensor, std::vector<int32_t>* numbers) {
    if (tensor.type != Type::kI32) {
      return Wrong(name, std::string("is ") + safetensors::Name(tensor.type) + "; it must be I32");
    }
    numbers->resize(static_cast<size_t>(tensor.elements()));
    std::memcpy(numbers->data(), tensor.bytes.data(), tensor.bytes.size());
    return absl::OkStatus();
  }

  absl::Status LoadKeysAndValues() {
    DType dtypes[2] = {};
    const std::pair<const char*, std::span<const std::byte>*> tensors[] = {{"keys", &input_.keys},
                                                                           {"values", &input_.values}};
    for (size_t i = 0; i < 2; ++i) {
      const auto& [name, bytes] = tensors[i];
      const Tensor* tensor = Find(name);
      if (tensor == nullptr) continue;
      if (absl::Status status = ReadNumbers(name, *tensor, &dtypes[i], bytes); !status.ok()) return status;
      if (absl::Status status = Bind(name, *tensor, {&layers_, &kv_heads_, &tokens_, &head_dim_}); !status.ok()) {
        return status;
      }
      input_.geometry.dtype = dtypes[i];
    }
    if (Find("keys") != nullptr && Find("values") != nullptr && dtypes[0] != dtypes[1]) {
      return Wrong("values", std::string("is ") + safetensors::Name(Find("values")->type) + ", but tensor 'keys' is " +
                                 safetensors::Name(Find("keys")->type) + "; they must be the same");
    }
    return absl::OkStatus();
  }

  absl::Status LoadQueries() {
    const Tensor* tensor = Find("queries");
    if (tensor == nullptr) return absl::OkStatus();
    if (absl::Status s = ReadNumbers("queries", *tensor, &input_.query_dtype, &input_.queries); !s.ok()) return s;
    if (absl::Status s = Bind("queries", *tensor, {&layers_, &query_heads_, &rows_, &head_dim_}); !s.ok()) return s;
    if (input_.keys.empty() && input_.values.empty()) input_.geometry.dtype = input_.query_dtype;
    return absl::OkStatus();
  }

  // The shapes of the integer tensors, which may be the only ones that tell kv heads and n.
  absl::Status FindShapes() {
    if (const Tensor* lengths = Find("lengths")) {
      if (absl::Status s = Bind("lengths", *lengths, {&layers_, &kv_heads_}); !s.ok()) return s;
    }
    if (const Tensor* positions = Find("positions")) {
      const absl::Status s = positions->shape.size() == 1
                                 ? Bind("positions", *positions, {&tokens_})
                                 : Bind("positions", *positions, {&layers_, &kv_heads_, &tokens_});
      if (!s.ok()) return s;
    }
    const struct {
      const char* name;
      std::initializer_list<Dimension*> dimensions;
    } others[] = {{"query_positions", {&rows_}},
                  {"scores", {&layers_, &kv_heads_, &tokens_}},
                  {"projected_norms", {&layers_, &kv_heads_, &tokens_}},
                  {"query_mean", {&layers_, &query_heads_, &head_dim_}},
                  {"query_cov", {&layers_, &query_heads_, &head_dim_, &head_dim_}},
                  {"classes", {&classes_}}};
    for (const auto& other : others) {
      const Tensor* tensor = Find(other.name);
      if (tensor == nullptr) continue;
      if (absl::Status s = Bind(other.name, *tensor, other.dimensions); !s.ok()) return s;
    }
    return absl::OkStatus();
  }

  absl::Status SetGeometry() {
    for (const Dimension* dimension : {&layers_, &kv_heads_, &tokens_, &head_dim_}) {
      if (dimension->size == 0) {
        return absl::InvalidArgumentError("no tensor tells " + dimension->name +
                                          "; record keys [layers, kv_heads, n, head_dim]");
      }
    }
    if (query_heads_.size == 0) query_heads_.size = kv_heads_.size;
    if (query_heads_.size % kv_heads_.size != 0) {
      return Wrong(query_heads_.tensor, "has query_heads = " + std::to_string(query_heads_.size) +
                                            "; it must be a multiple of kv_heads = " + std::to_string(kv_heads_.size));
    }
    if (layers_.size * kv_heads_.size > kMaxResidents || layers_.size * kv_heads_.size * tokens_.size > kMaxResidents) {
      return absl::InvalidArgumentError("layers * kv_heads * n is above 2^30; record fewer layers or tokens");
    }
    input_.geometry.layers = static_cast<int32_t>(layers_.size);
    input_.geometry.kv_heads = static_cast<int32_t>(kv_heads_.size);
    input_.geometry.query_heads = static_cast<int32_t>(query_heads_.size);
    input_.geometry.head_dim = static_cast<int32_t>(head_dim_.size);
    input_.tokens = static_cast<int32_t>(tokens_.size);
    input_.rows = static_cast<int32_t>(rows_.size);
    return absl::OkStatus();
  }

  absl::Status LoadLengths() {
    const Tensor* tensor = Find("lengths");
    if (tensor == nullptr) {
      input_.lengths.assign(static_cast<size_t>(input_.geometry.units()), input_.tokens);
      return absl::OkStatus();
    }
    if (absl::Status status = ReadIntegers("lengths", *tensor, &input_.lengths); !status.ok()) return status;
    for (const int32_t length : input_.lengths) {
      if (length < 0 || length > input_.tokens) {
        return Wrong("lengths",
                     "has " + std::to_string(length) + "; it must be from 0 to n = " + std::to_string(input_.tokens));
      }
    }
    return absl::OkStatus();
  }

  absl::Status LoadPositions() {
    if (const Tensor* tensor = Find("positions")) {
      if (absl::Status status = ReadIntegers("positions", *tensor, &input_.positions); !status.ok()) return status;
    } else {
      input_.positions.resize(static_cast<size_t>(input_.tokens));
      std::iota(input_.positions.begin(), input_.positions.end(), 0);
    }
    for (size_t u = 0; u < input_.units(); ++u) {
      if (absl::Status status = Ascend("positions", input_.UnitPositions(u)); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

  absl::Status LoadQueryPositions() {
    if (const Tensor* tensor = Find("query_positions")) {
      if (absl::Status s = ReadIntegers("query_positions", *tensor, &input_.query_positions); !s.ok()) return s;
    } else if (input_.rows > 0) {
      if (Find("positions") != nullptr && Find("positions")->shape.size() == 3) {
        return absl::InvalidArgumentError("tensor 'query_positions' is missing; positions per unit need it");
      }
      if (input_.rows > input_.tokens) {
        return absl::InvalidArgumentError("tensor 'query_positions' is missing; more query rows than tokens need it");
      }
      input_.query_positions.assign(input_.positions.end() - input_.rows, input_.positions.end());
    }
    return Ascend("query_positions", input_.query_positions);
  }

  absl::Status LoadInputs() {
    for (const auto& [name, packed] :
         {std::pair{"scores", &input_.scores}, std::pair{"projected_norms", &input_.projected_norms}}) {
      std::span<const float> padded;
      if (absl::Status status = ReadFloats(name, &padded); !status.ok()) return status;
      if (padded.empty()) continue;
      for (size_t u = 0; u < input_.units(); ++u) {
        const auto row = padded.subspan(u * static_cast<size_t>(input_.tokens), static_cast<size_t>(input_.lengths[u]));
        packed->insert(packed->end(), row.begin(), row.end());
      }
    }
    if (absl::Status status = ReadFloats("query_mean", &input_.query_mean); !status.ok()) return status;
    if (absl::Status status = ReadFloats("query_cov", &input_.query_covariance); !status.ok()) return status;
    const Tensor* classes = Find("classes");
    if (classes == nullptr) return absl::OkStatus();
    if (classes->type != Type::kU8) {
      return Wrong("classes", std::string("is ") + safetensors::Name(classes->type) + "; it must be U8");
    }
    if (classes_.size < input_.seen) {
      return Wrong("classes", "has " + std::to_string(classes_.size) + " entries; it must have one for each of the " +
                                  std::to_string(input_.seen) + " tokens seen");
    }
    input_.classes = {reinterpret_cast<const uint8_t*>(classes->bytes.data()), classes->bytes.size()};
    return absl::OkStatus();
  }

  // Nothing if the file has no such tensor.
  absl::Status ReadFloats(const char* name, std::span<const float>* floats) const {
    const Tensor* tensor = Find(name);
    if (tensor == nullptr) return absl::OkStatus();
    if (tensor->type != Type::kF32) {
      return Wrong(name, std::string("is ") + safetensors::Name(tensor->type) + "; it must be F32");
    }
    *floats = {reinterpret_cast<const float*>(tensor->bytes.data()), tensor->bytes.size() / sizeof(float)};
    return absl::OkStatus();
  }

  // Positions ascend from 0; `seen` lies beyond them.
  absl::Status Ascend(const std::string& name, std::span<const int32_t> positions) {
    int32_t previous = -1;
    for (const int32_t position : positions) {
      if (position <= previous) {
        return Wrong(name, "has " + std::to_string(position) + " after " + std::to_string(previous) +
                               "; positions must ascend from 0");
      }
      previous = position;
    }
    input_.seen = std::max<int64_t>(input_.seen, int64_t{previous} + 1);
    return absl::OkStatus();
  }

  ReplayInput& input_;
  Dimension layers_{"layers"};
  Dimension query_heads_{"query_heads"};
  Dimension kv_heads_{"kv_heads"};
  Dimension tokens_{"n"};
  Dimension rows_{"w"};
  Dimension head_dim_{"head_dim"};
  Dimension classes_{"seen"};
};

}  // namespace

absl::StatusOr<ReplayInput> LoadReplay(const std::string& path) {
  ReplayInput input;
  absl::StatusOr<safetensors::File> file = safetensors::File::Open(path);
  if (!file.ok()) return file.status();
  input.file = *std::move(file);
  const absl::Status status = Loader(&input).Load();
  if (!status.ok()) return absl::Status(status.code(), path + ": " + std::string(status.message()));
  return input;
}

}  // namespace kvsteward::replay
