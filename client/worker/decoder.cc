#include "client/worker/decoder.h"

#include <algorithm>

namespace kvsteward::worker {

Decoder::Decoder(const Model& model, CacheAttention& attention)
    : model_(model),
      attention_(attention),
      rope_(model.config.max_positions, model.config.head_dim, model.config.rope_theta) {
  const ModelConfig& config = model.config;
  const auto rows = [](uint32_t width) { return static_cast<size_t>(kMaxTokens) * width; };
  hidden_.resize(rows(config.hidden));
  normed_.resize(rows(config.hidden));
  qkv_.resize(rows(config.query_width() + 2 * config.kv_width()));
  attended_.resize(rows(config.query_width()));
  gate_up_.resize(rows(2 * config.intermediate));
  gated_.resize(rows(config.intermediate));
  logits_.resize(config.vocab);
}

absl::StatusOr<std::span<const float>> Decoder::Append(const KvCache& cache, std::span<const uint32_t> tokens,
                                                       uint32_t position, QueryWindow* window) {
  return Run(cache, tokens, position, Place::kBehind, window);
}

absl::StatusOr<std::span<const float>> Decoder::ReplaceLast(const KvCache& cache, uint32_t token, uint32_t position,
                                                            QueryWindow* window) {
  return Run(cache, {&token, 1}, position, Place::kLast, window);
}

absl::StatusOr<std::span<const float>> Decoder::Run(const KvCache& cache, std::span<const uint32_t> tokens,
                                                    uint32_t position, Place place, QueryWindow* window) {
  const ModelConfig& config = model_.config;
  const auto count = static_cast<uint32_t>(tokens.size());
  const size_t width = config.hidden;
  for (uint32_t t = 0; t < count; ++t) {
    std::copy_n(&model_.embedding[tokens[t] * width], width, &hidden_[t * width]);
  }
  for (uint32_t index = 0; index < config.layers; ++index) {
    const ModelLayer& layer = model_.layers[index];
    RmsNorm(hidden_.data(), count, config.hidden, layer.attention_norm.data(), config.rms_epsilon, normed_.data());
    layer.qkv.Apply(normed_.data(), count, qkv_.data());
    if (absl::Status status = AttendLayer(cache, index, count, position, place, window); !status.ok()) return status;
    layer.attention_out.AddTo(attended_.data(), count, hidden_.data());

    RmsNorm(hidden_.data(), count, config.hidden, layer.mlp_norm.data(), config.rms_epsilon, normed_.data());
    layer.gate_up.Apply(normed_.data(), count, gate_up_.data());
    SwiGlu(gate_up_.data(), count, config.intermediate, gated_.data());
    layer.down.AddTo(gated_.data(), count, hidden_.data());
  }
  RmsNorm(&hidden_[(count - 1) * width], 1, config.hidden, model_.norm.data(), config.rms_epsilon, normed_.data());
  model_.head.Apply(normed_.data(), 1, logits_.data());
  return std::span<const float>(logits_);
}

absl::Status Decoder::AttendLayer(const KvCache& cache, uint32_t layer, uint32_t tokens, uint32_t position, Place place,
                                  QueryWindow* window) {
  const ModelConfig& config = model_.config;
  const uint32_t stride = config.query_width() + 2 * config.kv_width();
  for (uint32_t t = 0; t < tokens; ++t) {
    // Keys lie right behind the queries, so both turn in one go.
    rope_.Rotate(&qkv_[static_cast<size_t>(t) * stride], config.query_heads + config.kv_heads, position + t);
  }
  if (window != nullptr && place == Place::kBehind) window->Push(layer, qkv_.data(), tokens, stride);
  if (window != nullptr && place == Place::kLast) window->ReplaceLast(layer, qkv_.data());
  return attention_.Run(
      cache, {.layer = layer, .tokens = tokens, .place = place, .qkv = qkv_.data(), .attended = attended_.data()});
}

}  // namespace kvsteward::worker
