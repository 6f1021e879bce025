#include "client/worker/session.h"

#include <algorithm>
#include <utility>

#include "base/run.h"

namespace kvsteward::worker {

ModelGeometry GeometryOf(const ModelConfig& config) {
  return {.layers = config.layers,
          .query_heads = config.query_heads,
          .kv_heads = config.kv_heads,
          .head_dim = config.head_dim,
          .dtype = ElementType::kF32};
}

Session::Session(Decoder& decoder, Sequence sequence, QueryWindow window, const Options& options)
    : decoder_(decoder), cache_(std::move(sequence)), window_(window), options_(options) {}

absl::StatusOr<std::unique_ptr<Session>> Session::Start(Client& client, Decoder& decoder, const Options& options) {
  if (options.max_tokens > decoder.config().max_positions) {
    return absl::InvalidArgumentError("max_tokens is " + std::to_string(options.max_tokens) +
                                      "; the model knows positions below " +
                                      std::to_string(decoder.config().max_positions));
  }
  absl::StatusOr<Sequence> sequence = client.CreateSequence(options.id, options.max_tokens);
  if (!sequence.ok()) return sequence.status();
  auto* slot = reinterpret_cast<float*>(client.WindowSlot(options.window_slot));
  return std::unique_ptr<Session>(
      new Session(decoder, *std::move(sequence), QueryWindow(decoder.config(), kWindowRows, slot), options));
}

absl::Status Session::Prefill(std::span<const uint32_t> prompt) {
  const auto total = static_cast<uint32_t>(prompt.size());
  if (absl::Status status = cache_.sequence().Reserve(total); !status.ok()) return status;
  for (uint32_t at = 0; at < total; at += Decoder::kMaxTokens) {
    const uint32_t count = std::min(Decoder::kMaxTokens, total - at);
    const auto logits = decoder_.Append(cache_, prompt.subspan(at, count), at, &window_);
    if (!logits.ok()) return logits.status();
    if (absl::Status status = cache_.sequence().Wrote(at + count); !status.ok()) return status;
  }
  last_token_ = prompt.back();
  return absl::OkStatus();
}

absl::StatusOr<Evicted> Session::Evict(const std::string& policy, uint32_t budget_ppm, bool export_plan) {
  policy_ = policy;
  EvictOptions options;
  options.budget_ppm = budget_ppm;
  options.export_plan = export_plan;
  return Evict(std::move(options));
}

absl::StatusOr<Evicted> Session::Evict(EvictOptions options) {
  options.policy = policy_;
  options.window = {.rows = kWindowRows, .slot = options_.window_slot};
  absl::StatusOr<Evicted> evicted = cache_.sequence().Evict(options);
  if (!evicted.ok()) return evicted;
  budget_tokens_ = evicted->budget_tokens;
  return evicted;
}

absl::StatusOr<bool> Session::EvictIfDue() {
  if (budget_tokens_ == 0 || !cache_.sequence().EvictionDue(budget_tokens_)) return false;
  EvictOptions options;
  options.budget_tokens = budget_tokens_;
  absl::StatusOr<Evicted> evicted = Evict(std::move(options));
  if (!evicted.ok()) return evicted.status();
  return true;
}

absl::StatusOr<std::span<const float>> Session::DecodeLastAgain() {
  const uint32_t seen = cache_.sequence().written();
  if (seen == 0) return absl::FailedPreconditionError("no token was decoded yet: Prefill first");
  return decoder_.ReplaceLast(cache_, last_token_, seen - 1, &window_);
}

absl::StatusOr<std::span<const float>> Session::Feed(std::span<const uint32_t> tokens) {
  Sequence& sequence = cache_.sequence();
  const uint32_t seen = sequence.written();
  const auto total = seen + static_cast<uint32_t>(tokens.size());
  if (total > sequence.reserved()) {
    // A block at a time, so that not every token costs a call.
    const uint32_t wanted = std::max(total, std::min(options_.max_tokens, seen + kBlockTokens));
    if (absl::Status status = sequence.Reserve(wanted); !status.ok()) return status;
  }
  const auto logits = decoder_.Append(cache_, tokens, seen, &window_);
  if (!logits.ok()) return logits;
  if (absl::Status status = sequence.Wrote(total); !status.ok()) return status;
  last_token_ = tokens.back();
  return logits;
}

uint64_t Session::KvBytes() const {
  const ModelConfig& config = decoder_.config();
  uint64_t blocks = 0;
  for (uint32_t unit = 0; unit < config.units(); ++unit) blocks += BlocksFor(cache_.Residents(unit));
  return blocks * kBlockTokens * 2 * config.head_dim * sizeof(float);
}

}  // namespace kvsteward::worker
