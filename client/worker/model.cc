#include "client/worker/model.h"

#include <array>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <utility>

#include "base/safetensors.h"

namespace kvsteward::worker {
namespace {

using Json = nlohmann::json;

// Far beyond any decoder of today, and small enough that no product of two overflows 64 bits.
constexpr uint32_t kMaxWidth = 1u << 20;

absl::Status Refuse(const std::string& why) { return absl::InvalidArgumentError(why); }

// Reads the numbers of a config; keeps the first error.
class ConfigReader {
 public:
  explicit ConfigReader(const Json& json) : json_(json) {}

  // An integer in [1, max] that is a multiple of `step`.
  uint32_t Integer(const char* key, uint32_t max, uint32_t step = 1) {
    const auto found = json_.find(key);
    const bool fits = found != json_.end() && found->is_number_unsigned() && found->get<uint64_t>() >= 1 &&
                      found->get<uint64_t>() <= max && found->get<uint64_t>() % step == 0;
    if (fits) return found->get<uint32_t>();
    Fail(key, "a whole number from 1 to " + std::to_string(max) +
                  (step > 1 ? " that is a multiple of " + std::to_string(step) : ""));
    return step;
  }
  float Positive(const char* key) {
    const auto found = json_.find(key);
    const bool fits =
        found != json_.end() && found->is_number() && std::isfinite(found->get<float>()) && found->get<float>() > 0;
    if (fits) return found->get<float>();
    Fail(key, "a positive number");
    return 1;
  }
  bool Flag(const char* key) {
    const auto found = json_.find(key);
    if (found == json_.end()) return false;
    if (found->is_boolean()) return found->get<bool>();
    Fail(key, "true or false");
    return false;
  }
  const absl::Status& status() const { return status_; }

 private:
  void Fail(const char* key, const std::string& wanted) {
    if (!status_.ok()) return;
    const auto found = json_.find(key);
    const std::string is = found == json_.end() ? "is missing" : "is " + found->dump().substr(0, 32);
    status_ = Refuse(std::string("its config's ") + key + " " + is + "; it must be " + wanted);
  }

  const Json& json_;
  absl::Status status_;
};

struct ParsedConfig {
  ModelConfig config;
  bool tied = false;  // the head is the embedding
};

absl::StatusOr<ParsedConfig> ParseConfig(const std::string& text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return Refuse("its metadata's 'config' is no JSON object");
  ConfigReader read(json);
  ParsedConfig parsed;
  ModelConfig& config = parsed.config;
  config.hidden = read.Integer("hidden_size", kMaxWidth, kLanes);
  config.intermediate = read.Integer("intermediate_size", kMaxWidth, kLanes);
  config.layers = read.Integer("num_hidden_layers", 1024);
  config.query_heads = read.Integer("num_attention_heads", 1024);
  config.kv_heads = read.Integer("num_key_value_heads", 1024);
  config.head_dim = read.Integer("head_dim", 1024, kLanes);
  config.vocab = read.Integer("vocab_size", kMaxWidth, kLanes);
  config.max_positions = read.Integer("max_position_embeddings", kMaxWidth);
  config.rms_epsilon = read.Positive("rms_norm_eps");
  config.rope_theta = read.Positive("rope_theta");
  parsed.tied = read.Flag("tie_word_embeddings");
  if (!read.status().ok()) return read.status();
  if (config.query_heads % config.kv_heads != 0) {
    return Refuse("its config's num_attention_heads is " + std::to_string(config.query_heads) +
                  "; it must be a multiple of num_key_value_heads, " + std::to_string(config.kv_heads));
  }
  return parsed;
}

// Hands out tensors as float32; keeps the first error, after which it hands out nothing.
class TensorReader {
 public:
  explicit TensorReader(const safetensors::File& file) : file_(file) {}

  std::span<const float> Matrix(const std::string& name, uint32_t out, uint32_t in) {
    return Read(name, {out, in}, "[" + std::to_string(out) + ", " + std::to_string(in) + "]");
  }
  std::vector<float> Vector(const std::string& name, uint32_t width) {
    const std::span<const float> values = Read(name, {width}, "[" + std::to_string(width) + "]");
    return {values.begin(), values.end()};
  }
  const absl::Status& status() const { return status_; }

 private:
  std::span<const float> Read(const std::string& name, const std::vector<int64_t>& shape, const std::string& text) {
    if (!status_.ok()) return {};
    const safetensors::Tensor* tensor = file_.Find(name);
    if (tensor == nullptr) {
      status_ = Refuse("it lacks the tensor '" + name + "', " + text + " F32");
      return {};
    }
    if (tensor->type != safetensors::Type::kF32 || tensor->shape != shape) {
      std::string is;
      for (const int64_t dimension : tensor->shape) is += (is.empty() ? "" : ", ") + std::to_string(dimension);
      status_ = Refuse("its tensor '" + name + "' is [" + is + "] " + safetensors::Name(tensor->type) +
                       "; the config asks for " + text + " F32");
      return {};
    }
    const std::span<const float> values(reinterpret_cast<const float*>(tensor->bytes.data()),
                                        tensor->bytes.size() / sizeof(float));
    for (const float value : values) {
      if (std::isfinite(value)) continue;
      status_ = Refuse("its tensor '" + name + "' holds a number that is not finite");
      return {};
    }
    return values;
  }

  const safetensors::File& file_;
  absl::Status status_;
};

ModelLayer ReadLayer(TensorReader& read, const ModelConfig& config, uint32_t index) {
  const std::string prefix = "model.layers." + std::to_string(index) + ".";
  const uint32_t hidden = config.hidden;
  const std::array qkv = {read.Matrix(prefix + "self_attn.q_proj.weight", config.query_width(), hidden),
                          read.Matrix(prefix + "self_attn.k_proj.weight", config.kv_width(), hidden),
                          read.Matrix(prefix + "self_attn.v_proj.weight", config.kv_width(), hidden)};
  const std::array gate_up = {read.Matrix(prefix + "mlp.gate_proj.weight", config.intermediate, hidden),
                              read.Matrix(prefix + "mlp.up_proj.weight", config.intermediate, hidden)};
  const auto out = read.Matrix(prefix + "self_attn.o_proj.weight", hidden, config.query_width());
  const auto down = read.Matrix(prefix + "mlp.down_proj.weight", hidden, config.intermediate);
  ModelLayer layer;
  layer.attention_norm = read.Vector(prefix + "input_layernorm.weight", hidden);
  layer.mlp_norm = read.Vector(prefix + "post_attention_layernorm.weight", hidden);
  if (!read.status().ok()) return layer;
  layer.qkv = Linear::Stack(qkv, hidden);
  layer.attention_out = Linear(out, hidden, config.query_width());
  layer.gate_up = Linear::Stack(gate_up, hidden);
  layer.down = Linear(down, hidden, config.intermediate);
  return layer;
}

absl::StatusOr<Model> ReadModel(const safetensors::File& file) {
  const auto text = file.metadata().find("config");
  if (text == file.metadata().end()) return Refuse("its metadata has no 'config'");
  absl::StatusOr<ParsedConfig> parsed = ParseConfig(text->second);
  if (!parsed.ok()) return parsed.status();

  Model model;
  model.config = parsed->config;
  if (const auto task = file.metadata().find("task"); task != file.metadata().end()) model.task = task->second;
  TensorReader read(file);
  const auto embedding = read.Matrix("model.embed_tokens.weight", model.config.vocab, model.config.hidden);
  model.embedding.assign(embedding.begin(), embedding.end());
  for (uint32_t layer = 0; layer < model.config.layers && read.status().ok(); ++layer) {
    model.layers.push_back(ReadLayer(read, model.config, layer));
  }
  model.norm = read.Vector("model.norm.weight", model.config.hidden);
  const auto head = parsed->tied ? embedding : read.Matrix("lm_head.weight", model.config.vocab, model.config.hidden);
  if (!read.status().ok()) return read.status();
  model.head = Linear(head, model.config.vocab, model.config.hidden);
  return model;
}

}  // namespace

absl::StatusOr<Model> LoadModel(const std::string& path) {
  const absl::StatusOr<safetensors::File> file = safetensors::File::Open(path);
  if (!file.ok()) return file.status();
  absl::StatusOr<Model> model = ReadModel(*file);
  if (model.ok()) return model;
  return absl::Status(model.status().code(), path + ": " + std::string(model.status().message()));
}

}  // namespace kvsteward::worker
