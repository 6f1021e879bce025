#include "client/worker/decoder.h"

#include <algorithm>
#include <cstring>

namespace kvsteward::worker {

Decoder::Decoder(const Model& model)
    : model_(model), rope_(model.config.max_positions, model.config.head_dim, model.config.rope_theta) {
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

std::span<const float> Decoder::Append(KvCache& cache, std::span<const uint32_t> tokens, uint32_t position,
                                       QueryWindow* window) {
  return Run(cache, tokens, position, Place::kBehind, window);
}

std::span<const float> Decoder::ReplaceLast(KvCache& cache, uint32_t token, uint32_t position, QueryWindow* window) {
  return Run(cache, {&token, 1}, position, Place::kLast, window);
}

std::span<const float> Decoder::Run(KvCache& cache, std::span<const uint32_t> tokens, uint32_t position, Place place,
                                    QueryWindow* window) {
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
    AttendLayer(cache, index, count, position, place, window);
    layer.attention_out.AddTo(attended_.data(), count, hidden_.data());

    RmsNorm(hidden_.data(), count, config.hidden, layer.mlp_norm.data(), config.rms_epsilon, normed_.data());
    layer.gate_up.Apply(normed_.data(), count, gate_up_.data());
    SwiGlu(gate_up_.data(), count, config.intermediate, gated_.data());
    layer.down.AddTo(gated_.data(), count, hidden_.data());
  }
  RmsNorm(&hidden_[(count - 1) * width], 1, config.hidden, model_.norm.data(), config.rms_epsilon, normed_.data());
  model_.head.Apply(normed_.data(), 1, logits_.data());
  return logits_;
}

void Decoder::AttendLayer(KvCache& cache, uint32_t layer, uint32_t tokens, uint32_t position, Place place,
                          QueryWindow* window) {
  const ModelConfig& config = model_.config;
  const uint32_t stride = config.query_width() + 2 * config.kv_width();
  for (uint32_t t = 0; t < tokens; ++t) {
    // Keys lie right behind the queries, so both turn in one go.
    rope_.Rotate(&qkv_[static_cast<size_t>(t) * stride], config.query_heads + config.kv_heads, position + t);
  }
  if (window != nullptr && place == Place::kBehind) window->Push(layer, qkv_.data(), tokens, stride);
  if (window != nullptr && place == Place::kLast) window->ReplaceLast(layer, qkv_.data());
  for (uint32_t head = 0; head < config.kv_heads; ++head) {
    AttendUnit(cache, layer * config.kv_heads + head, tokens, place);
  }
}

void Decoder::AttendUnit(KvCache& cache, uint32_t unit, uint32_t tokens, Place place) {
  const ModelConfig& config = model_.config;
  const uint32_t head = unit % config.kv_heads;
  const uint32_t stride = config.query_width() + 2 * config.kv_width();
  const size_t head_dim = config.head_dim;
  const uint32_t first = cache.Residents(unit) - (place == Place::kLast ? 1 : 0);

  const float* keys = qkv_.data() + config.query_width() + head * head_dim;
  const float* values = keys + config.kv_width();
  for (uint32_t t = 0; t < tokens; ++t) {
    float* block = cache.Block(unit, (first + t) / kBlockTokens);
    const size_t slot = (first + t) % kBlockTokens;
    std::copy_n(keys + static_cast<size_t>(t) * stride, head_dim, block + slot * head_dim);
    std::copy_n(values + static_cast<size_t>(t) * stride, head_dim, block + (kBlockTokens + slot) * head_dim);
  }

  blocks_.clear();
  for (uint32_t index = 0; index * kBlockTokens < first + tokens; ++index) blocks_.push_back(cache.Block(unit, index));
  const size_t queries = head_dim * head * config.group();
  Attend({.blocks = blocks_,
          .visible = first + 1,
          .tokens = tokens,
          .group = config.group(),
          .head_dim = config.head_dim,
          .queries = qkv_.data() + queries,
          .query_stride = stride,
          .out = attended_.data() + queries,
          .out_stride = config.query_width()},
         scratch_);
}

}  // namespace kvsteward::worker
