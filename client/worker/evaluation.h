// Runs the retrieval task over the sidecar's memory, one row of the report at a time. Borrows client and decoder. One
// thread at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/worker/decoder.h"
#include "client/worker/report.h"
#include "client/worker/session.h"
#include "client/worker/task.h"
#include "kvsteward/client.h"

namespace kvsteward::worker {

struct EvictionSetting {
  std::string name;    // in the report
  std::string policy;  // a preset's name or a policy as YAML
  uint32_t budget_ppm = 0;
};

class Evaluation {
 public:
  static constexpr uint32_t kDecodedTokens = 48;  // after the answers of each prompt
  static constexpr uint32_t kWindowSlots = 2;     // for two sequences at a time

  // `on_prompt` is called after every prompt.
  Evaluation(Client& client, Decoder& decoder, const Task& task, uint32_t prompts, std::function<void()> on_prompt);

  // Most tokens that a sequence of this task sees.
  static uint32_t MaxTokens(const Task& task) { return task.prompt_tokens + task.answer_tokens() + kDecodedTokens; }

  // Nothing is evicted, so one sequence at a time. Its answers are what the other rows of this kind are compared to.
  absl::StatusOr<ReportRow> RunFull(PromptKind kind);
  // Each prompt is evicted while the one before it, evicted too, is still held; then that one answers and ends.
  // `picture`, if there is one, gets what the first prompt's heads kept.
  // REQUIRES: RunFull of the kind.
  absl::StatusOr<ReportRow> Run(PromptKind kind, const EvictionSetting& setting, ReportPicture* picture);
  // Shows that a second sequence is refused while the first is whole, and admitted once it is evicted.
  absl::StatusOr<Admission> CheckAdmission(const EvictionSetting& setting);

 private:
  struct Running {
    uint32_t prompt = 0;
    std::unique_ptr<Session> session;
  };
  // What the full cache said at one question.
  struct Reference {
    uint32_t answer = 0;
    std::vector<double> log_probabilities;  // [vocab]
  };
  struct Tally;

  const std::vector<Prompt>& Prompts(PromptKind kind) const { return prompts_[static_cast<size_t>(kind)]; }
  std::vector<std::vector<Reference>>& References(PromptKind kind) { return references_[static_cast<size_t>(kind)]; }

  absl::StatusOr<Running> Start(uint32_t prompt);
  absl::StatusOr<Running> Prefill(PromptKind kind, uint32_t prompt);
  absl::Status EvictPrompt(Session& session, const EvictionSetting& setting, ReportPicture* picture, Tally& tally);
  // Answers all questions, decodes on, and releases.
  absl::Status Finish(Running running, PromptKind kind, Tally& tally);
  absl::Status Answer(Session& session, const Prompt& prompt, std::vector<Reference>& references, Tally& tally);
  absl::Status DecodeOn(Session& session, uint32_t token, Tally& tally);
  // At the border of two steps.
  static absl::Status EvictIfDue(Session& session, Tally& tally);
  ReportRow Row(PromptKind kind, const Tally& tally) const;

  Client& client_;
  Decoder& decoder_;
  Task task_;
  std::function<void()> on_prompt_;
  uint64_t next_id_ = 1;
  std::vector<Prompt> prompts_[2];                     // of each kind
  std::vector<std::vector<Reference>> references_[2];  // [prompt][question] of each kind, once RunFull has filled them
};

}  // namespace kvsteward::worker
