#include "client/worker/evaluation.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/run.h"

namespace kvsteward::worker {
namespace {

using Clock = std::chrono::steady_clock;

double MillisecondsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

uint32_t Best(std::span<const float> logits) {
  return static_cast<uint32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

std::vector<double> LogSoftmax(std::span<const float> logits) {
  const double highest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - highest);
  std::vector<double> result;
  for (const float logit : logits) result.push_back(logit - highest - std::log(sum));
  return result;
}

double Divergence(const std::vector<double>& log_p, const std::vector<double>& log_q) {
  double nats = 0;
  for (size_t i = 0; i < log_p.size(); ++i) nats += std::exp(log_p[i]) * (log_p[i] - log_q[i]);
  return nats;
}

// The value that this share of the samples does not exceed.
double Percentile(std::vector<double> samples, double share) {
  if (samples.empty()) return 0;
  std::sort(samples.begin(), samples.end());
  const auto rank = static_cast<size_t>(std::ceil(share * static_cast<double>(samples.size())));
  return samples[std::max<size_t>(rank, 1) - 1];
}

// The blocks that an eviction must bring back, to the block.
uint64_t BlocksToReturn(const Evicted& evicted) {
  uint64_t blocks = 0;
  for (size_t unit = 0; unit < evicted.lengths.size(); ++unit) {
    blocks += BlocksFor(evicted.lengths[unit]) - BlocksFor(evicted.kept[unit]);
  }
  return blocks;
}

// Reads which residents stay from an exported plan. Position and index are the same: nothing was evicted before.
std::vector<std::vector<bool>> KeptOf(const kvs_plan& plan) {
  std::vector<std::vector<bool>> kept;
  const auto* bytes = reinterpret_cast<const std::byte*>(&plan);
  const auto* units = reinterpret_cast<const kvs_unit_plan*>(bytes + sizeof(kvs_plan));
  for (uint32_t u = 0; u < plan.units; ++u) {
    const auto* mask = reinterpret_cast<const uint64_t*>(bytes + units[u].mask_offset);
    std::vector<bool>& row = kept.emplace_back(units[u].residents);
    for (uint32_t j = 0; j < units[u].residents; ++j) row[j] = (mask[j / 64] >> (j % 64) & 1) != 0;
  }
  return kept;
}

}  // namespace

// Sums over the prompts of a row.
struct Evaluation::Tally {
  EvictionSetting setting;
  uint32_t budget_tokens = 0;
  uint32_t answers = 0;
  uint32_t right = 0;
  uint32_t agreeing = 0;
  double nats = 0;
  uint64_t bytes_before = 0;
  uint64_t bytes_after = 0;
  uint64_t bytes_evicted = 0;
  uint64_t bytes_returned = 0;
  std::vector<double> evict_ms = {};
  std::vector<double> score_ms = {};
  double decode_ms = 0;
  uint32_t decode_evictions = 0;
};

Evaluation::Evaluation(Client& client, Decoder& decoder, const Task& task, uint32_t prompts,
                       std::function<void()> on_prompt)
    : client_(client), decoder_(decoder), task_(task), on_prompt_(std::move(on_prompt)) {
  for (const PromptKind kind : {PromptKind::kAware, PromptKind::kAgnostic}) {
    for (uint32_t i = 0; i < prompts; ++i) prompts_[static_cast<size_t>(kind)].push_back(MakePrompt(task, kind, i));
  }
}

absl::StatusOr<ReportRow> Evaluation::RunFull(PromptKind kind) {
  Tally tally{.setting = {"full", "", 1'000'000}, .budget_tokens = task_.prompt_tokens};
  References(kind).resize(Prompts(kind).size());
  for (uint32_t i = 0; i < Prompts(kind).size(); ++i) {
    absl::StatusOr<Running> running = Prefill(kind, i);
    if (!running.ok()) return running.status();
    tally.bytes_before += running->session->KvBytes();
    tally.bytes_after += running->session->KvBytes();
    if (absl::Status status = Finish(*std::move(running), kind, tally); !status.ok()) return status;
  }
  return Row(kind, tally);
}

absl::StatusOr<ReportRow> Evaluation::Run(PromptKind kind, const EvictionSetting& setting, ReportPicture* picture) {
  Tally tally{.setting = setting};
  std::optional<Running> waiting;
  for (uint32_t i = 0; i < Prompts(kind).size(); ++i) {
    absl::StatusOr<Running> running = Prefill(kind, i);
    if (!running.ok()) return running.status();
    absl::Status status = EvictPrompt(*running->session, setting, i == 0 ? picture : nullptr, tally);
    if (status.ok() && waiting) status = Finish(*std::move(waiting), kind, tally);
    if (!status.ok()) return status;
    waiting = *std::move(running);
  }
  if (waiting) {
    if (absl::Status status = Finish(*std::move(waiting), kind, tally); !status.ok()) return status;
  }
  if (picture != nullptr) {
    picture->kind = kind;
    picture->policy = setting.name;
    picture->budget_tokens = tally.budget_tokens;
  }
  return Row(kind, tally);
}

absl::StatusOr<Admission> Evaluation::CheckAdmission(const EvictionSetting& setting) {
  const std::vector<Prompt>& prompts = Prompts(PromptKind::kAware);
  absl::StatusOr<Running> first = Prefill(PromptKind::kAware, 0);
  if (!first.ok()) return first.status();
  absl::StatusOr<Running> second = Start(1);
  if (!second.ok()) return second.status();

  const absl::Status refusal = second->session->Prefill(prompts[0].tokens);
  if (!absl::IsResourceExhausted(refusal)) {
    return absl::FailedPreconditionError(
        absl::StrCat("a second sequence was to be refused while the first holds its full cache, but Reserve said ",
                     refusal.ToString(), "; give the sidecar the arena that arena-config prints"));
  }
  const absl::StatusOr<Evicted> evicted = first->session->Evict(setting.policy, setting.budget_ppm, false);
  if (!evicted.ok()) return evicted.status();
  Admission admission{std::string(refusal.message()), setting.name, evicted->budget_tokens, evicted->bytes_returned};
  absl::Status status = second->session->Prefill(prompts[0].tokens);
  if (status.ok()) status = first->session->Release();
  if (status.ok()) status = second->session->Release();
  if (!status.ok()) return status;
  return admission;
}

absl::StatusOr<Evaluation::Running> Evaluation::Start(uint32_t prompt) {
  absl::StatusOr<std::unique_ptr<Session>> session =
      Session::Start(client_, decoder_, {next_id_++, MaxTokens(task_), prompt % kWindowSlots});
  if (!session.ok()) return session.status();
  return Running{prompt, *std::move(session)};
}

absl::StatusOr<Evaluation::Running> Evaluation::Prefill(PromptKind kind, uint32_t prompt) {
  absl::StatusOr<Running> running = Start(prompt);
  if (!running.ok()) return running;
  if (absl::Status status = running->session->Prefill(Prompts(kind)[prompt].tokens); !status.ok()) return status;
  return running;
}

absl::Status Evaluation::EvictPrompt(Session& session, const EvictionSetting& setting, ReportPicture* picture,
                                     Tally& tally) {
  tally.bytes_before += session.KvBytes();
  const Clock::time_point start = Clock::now();
  const absl::StatusOr<Evicted> evicted = session.Evict(setting.policy, setting.budget_ppm, picture != nullptr);
  if (!evicted.ok()) return evicted.status();
  tally.evict_ms.push_back(MillisecondsSince(start));
  tally.score_ms.push_back(static_cast<double>(evicted->score_us) / 1000);
  tally.bytes_after += session.KvBytes();
  tally.bytes_evicted += evicted->bytes_evicted;
  tally.bytes_returned += evicted->bytes_returned;
  tally.budget_tokens = evicted->budget_tokens;
  if (evicted->blocks_freed != BlocksToReturn(*evicted)) {
    return absl::InternalError(absl::StrCat("an eviction returned ", evicted->blocks_freed, " blocks where ",
                                            BlocksToReturn(*evicted), " became free"));
  }
  if (picture != nullptr) {
    if (evicted->plan == nullptr) return absl::InternalError("an eviction exported no plan");
    picture->kept = KeptOf(*evicted->plan);
  }
  return absl::OkStatus();
}

absl::Status Evaluation::Finish(Running running, PromptKind kind, Tally& tally) {
  const uint32_t i = running.prompt;
  absl::Status status = Answer(*running.session, Prompts(kind)[i], References(kind)[i], tally);
  if (status.ok()) status = DecodeOn(*running.session, References(kind)[i].back().answer, tally);
  if (status.ok()) status = running.session->Release();
  if (status.ok()) on_prompt_();
  return status;
}

absl::Status Evaluation::Answer(Session& session, const Prompt& prompt, std::vector<Reference>& references,
                                Tally& tally) {
  absl::StatusOr<std::span<const float>> logits = session.DecodeLastAgain();
  for (uint32_t q = 0; q < task_.questions; ++q) {
    // Every run is fed the full cache's answers, so that all are compared on the same tokens.
    const std::vector<uint32_t> tokens = AskingTokens(task_, prompt, q, q == 0 ? 0 : references[q - 1].answer);
    if (logits.ok() && !tokens.empty()) logits = session.Feed(tokens);
    if (!logits.ok()) return logits.status();
    const uint32_t answer = Best(*logits);
    std::vector<double> log_probabilities = LogSoftmax(*logits);
    if (references.size() == q) references.push_back({answer, log_probabilities});  // this is the full cache's run
    ++tally.answers;
    tally.right += answer == prompt.questions[q].value ? 1 : 0;
    tally.agreeing += answer == references[q].answer ? 1 : 0;
    tally.nats += Divergence(references[q].log_probabilities, log_probabilities);
    if (absl::Status status = EvictIfDue(session, tally); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Evaluation::EvictIfDue(Session& session, Tally& tally) {
  const absl::StatusOr<bool> evicted = session.EvictIfDue();
  if (evicted.ok() && *evicted) ++tally.decode_evictions;
  return evicted.status();
}

absl::Status Evaluation::DecodeOn(Session& session, uint32_t token, Tally& tally) {
  for (uint32_t i = 0; i < kDecodedTokens; ++i) {
    const Clock::time_point start = Clock::now();
    const absl::StatusOr<std::span<const float>> logits = session.Feed({&token, 1});
    if (!logits.ok()) return logits.status();
    token = Best(*logits);
    tally.decode_ms += MillisecondsSince(start);
    if (absl::Status status = EvictIfDue(session, tally); !status.ok()) return status;
  }
  return absl::OkStatus();
}

ReportRow Evaluation::Row(PromptKind kind, const Tally& tally) const {
  const auto prompts = static_cast<double>(Prompts(kind).size());
  const auto mean = [&](uint64_t sum) {
    return static_cast<uint64_t>(std::llround(static_cast<double>(sum) / prompts));
  };
  return {.kind = kind,
          .policy = tally.setting.name,
          .budget_tokens = tally.budget_tokens,
          .budget_fraction = tally.setting.budget_ppm / 1e6,
          .answers = tally.answers,
          .right = tally.right,
          .agreement = static_cast<double>(tally.agreeing) / tally.answers,
          .kl_nats = tally.nats / tally.answers,
          .kv_bytes_before = mean(tally.bytes_before),
          .kv_bytes_after = mean(tally.bytes_after),
          .bytes_evicted = mean(tally.bytes_evicted),
          .bytes_returned = mean(tally.bytes_returned),
          .evict_ms_p50 = Percentile(tally.evict_ms, 0.5),
          .evict_ms_p99 = Percentile(tally.evict_ms, 0.99),
          .score_ms_p50 = Percentile(tally.score_ms, 0.5),
          .decode_ms_per_token = tally.decode_ms / (prompts * kDecodedTokens),
          .decode_evictions = tally.decode_evictions};
}

}  // namespace kvsteward::worker
