#include "client/worker/demo.h"

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/worker/decoder.h"
#include "client/worker/evaluation.h"
#include "client/worker/open_attention.h"
#include "client/worker/progress.h"
#include "client/worker/report.h"
#include "client/worker/session.h"
#include "kvsteward/client.h"

namespace kvsteward::worker {
namespace {

// AhaKV as the preset is, but with Ada-KV's head budgets: what those add is seen alone.
constexpr char kAhaKvWithAdaFloor[] = R"yaml(
name: ahakv-with-ada_floor
window: 32
signal: {sg_softmax: {g_min: 0}}
accumulate: sum
group: mean
refine:
  - value_prior: {norm: l2sq, pool: 7, edge: valid, scale: max}
protect: {sinks: 0, recent: 32}
layer: uniform
head: {ada_floor: {alpha: 0.2}}
select: top_k
)yaml";

struct NamedPolicy {
  const char* name;
  const char* policy;
};
constexpr NamedPolicy kPolicies[] = {{"streaming-llm", "streaming-llm"},
                                     {"snapkv", "snapkv"},
                                     {"ada-snapkv", "ada-snapkv"},
                                     {"ahakv", "ahakv"},
                                     {"ahakv+ada_floor", kAhaKvWithAdaFloor},
                                     {"ahakv-ada", "ahakv-ada"}};
constexpr uint32_t kBudgetsPpm[] = {500'000, 250'000, 100'000};
constexpr uint32_t kPicturedPpm = 100'000;

absl::StatusOr<std::unique_ptr<Client>> Attach(const DemoOptions& options, const ModelConfig& config,
                                               const DemoArena& arena) {
  ClientOptions client;
  client.address = options.address;
  client.fd_socket = options.fd_socket;
  client.geometry = GeometryOf(config);
  client.window_rows = kWindowRows;
  client.window_slots = Evaluation::kWindowSlots;
  client.plan_bytes = arena.plan_bytes;
  return Client::Attach(client);
}

// Keeps the part of the arena that is more than one and a half caches busy, for as long as the sequence lives.
absl::StatusOr<std::optional<Sequence>> KeepBusy(Client& client, uint32_t tokens) {
  constexpr uint64_t kId = uint64_t{1} << 32;  // the evaluation counts its sequences from 1
  if (tokens == 0) return std::nullopt;
  absl::StatusOr<Sequence> sequence = client.CreateSequence(kId, tokens);
  if (!sequence.ok()) return sequence.status();
  if (absl::Status status = sequence->Reserve(tokens); !status.ok()) return status;
  return *std::move(sequence);
}

absl::Status WriteFile(const std::string& path, const std::string& text) {
  if (path.empty()) return absl::OkStatus();
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << text;
  file.close();
  return file ? absl::OkStatus() : absl::UnavailableError(path + ": the report cannot be written");
}

// All rows of one kind, and its pictures.
absl::Status RunKind(Evaluation& evaluation, PromptKind kind, Progress& progress, Report& report) {
  const auto add = [&](const absl::StatusOr<ReportRow>& row) {
    if (row.ok()) report.rows.push_back(*row);
    return row.status();
  };
  progress.Describe(absl::StrCat(Name(kind), ", full cache"));
  if (absl::Status status = add(evaluation.RunFull(kind)); !status.ok()) return status;
  for (const NamedPolicy& policy : kPolicies) {
    for (const uint32_t budget : kBudgetsPpm) {
      progress.Describe(absl::StrFormat("%s, %s at %.0f %%", Name(kind), policy.name, budget / 1e4));
      ReportPicture picture;
      const bool pictured = budget == kPicturedPpm;
      const EvictionSetting setting{policy.name, policy.policy, budget};
      if (absl::Status status = add(evaluation.Run(kind, setting, pictured ? &picture : nullptr)); !status.ok()) {
        return absl::Status(status.code(), absl::StrCat(policy.name, " at ", budget, " millionths, ", Name(kind),
                                                        " prompts: ", std::string(status.message())));
      }
      if (pictured) report.pictures.push_back(std::move(picture));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status RunDemo(const DemoOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const absl::StatusOr<Model> model = LoadModel(options.model);
  if (!model.ok()) return model.status();
  const absl::StatusOr<Task> task = ParseTask(model->task, model->config.vocab);
  if (!task.ok()) return task.status();
  const DemoArena arena = ArenaFor(model->config, *task, options.device);
  const absl::StatusOr<std::unique_ptr<Client>> client = Attach(options, model->config, arena);
  if (!client.ok()) return client.status();
  const absl::StatusOr<std::unique_ptr<CacheAttention>> attention =
      OpenAttention(options.device, (*client)->device(), model->config);
  if (!attention.ok()) return attention.status();
  const absl::StatusOr<std::optional<Sequence>> busy = KeepBusy(**client, arena.busy_tokens);
  if (!busy.ok()) return busy.status();

  constexpr uint32_t kRows = 2 * (1 + std::size(kPolicies) * std::size(kBudgetsPpm));
  Progress progress(kRows * options.prompts);
  Decoder decoder(*model, **attention);
  Evaluation evaluation(**client, decoder, *task, options.prompts, [&] { progress.Step(); });
  Report report{.model = std::filesystem::path(options.model).filename().string(),
                .backend = (*client)->backend(),
                .device = (*client)->device(),
                .task = *task,
                .layers = model->config.layers,
                .kv_heads = model->config.kv_heads,
                .prompts = options.prompts,
                .decoded_tokens = Evaluation::kDecodedTokens};

  const absl::StatusOr<Admission> admission = evaluation.CheckAdmission({"ahakv-ada", "ahakv-ada", kBudgetsPpm[0]});
  if (!admission.ok()) return admission.status();
  report.admission = *admission;
  for (const PromptKind kind : {PromptKind::kAware, PromptKind::kAgnostic}) {
    report.pictured.push_back(MakePrompt(*task, kind, 0));
    if (absl::Status status = RunKind(evaluation, kind, progress, report); !status.ok()) return status;
  }
  progress.Finish();
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

  std::printf("%s\n", ReportTable(report).c_str());
  std::printf(
      "A second sequence was refused while the first held its full cache (%s), and admitted after %s had\n"
      "evicted the first to %u tokens a head, which returned %.0f KiB.\n",
      admission->refusal.c_str(), admission->policy.c_str(), admission->budget_tokens,
      static_cast<double>(admission->bytes_returned) / 1024);
  if (absl::Status status = WriteFile(options.out_json, ReportJson(report)); !status.ok()) return status;
  return WriteFile(options.out_html, ReportHtml(report));
}

}  // namespace kvsteward::worker
