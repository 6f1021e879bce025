// A Llama decoder's weights and dimensions, read from one safetensors file with the usual tensor names (q_proj, k_proj,
// ...), a "config" in JSON and, if the model was trained for one, a "task" in JSON among its metadata. Immutable once
// loaded; thread-safe to read.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/worker/layers.h"

namespace kvsteward::worker {

struct ModelConfig {
  uint32_t hidden = 0;
  uint32_t intermediate = 0;
  uint32_t layers = 0;
  uint32_t query_heads = 0;
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
  uint32_t vocab = 0;
  uint32_t max_positions = 0;
  float rms_epsilon = 0;
  float rope_theta = 0;

  uint32_t group() const { return query_heads / kv_heads; }
  uint32_t units() const { return layers * kv_heads; }
  // Elements of one token's queries, and of its keys (or values).
  uint32_t query_width() const { return query_heads * head_dim; }
  uint32_t kv_width() const { return kv_heads * head_dim; }
};

struct ModelLayer {
  std::vector<float> attention_norm;
  Linear qkv;  // queries, keys and values of a token, side by side
  Linear attention_out;
  std::vector<float> mlp_norm;
  Linear gate_up;
  Linear down;
};

struct Model {
  ModelConfig config;
  std::string task;              // JSON, empty if the file has none
  std::vector<float> embedding;  // [vocab, hidden]
  std::vector<ModelLayer> layers;
  std::vector<float> norm;
  Linear head;
};

// NOT_FOUND without a file; INVALID_ARGUMENT, in one sentence with the path, for anything that is not such a model: a
// malformed file, a config that lacks a key or makes no sense, a tensor that is missing or has another shape or type.
absl::StatusOr<Model> LoadModel(const std::string& path);

}  // namespace kvsteward::worker
