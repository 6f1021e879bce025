#include "client/worker/demo.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/run.h"
#include "client/worker/decoder.h"
#include "client/worker/evaluation.h"
#include "client/worker/progress.h"
#include "client/worker/report.h"
#include "client/worker/session.h"
#include "kvsteward/client.h"
#include "kvsteward/shm.h"

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

uint64_t RoundUp(uint64_t number, uint64_t step) { return (number + step - 1) / step * step; }

// Bytes of the plan of a whole prompt, in which every resident may stay.
uint64_t PlanBytes(const ModelConfig& config, const Task& task) {
  const uint64_t mask = kvs_align(RoundUp(task.prompt_tokens, 64) / 8);
  const uint64_t indices = kvs_align(uint64_t{task.prompt_tokens} * sizeof(uint32_t));
  return sizeof(kvs_region_header) + sizeof(kvs_plan) + kvs_align(config.units() * sizeof(kvs_unit_plan)) +
         config.units() * (mask + indices);
}

absl::StatusOr<std::unique_ptr<Client>> Attach(const DemoOptions& options, const ModelConfig& config,
                                               const Task& task) {
  ClientOptions client;
  client.address = options.address;
  client.fd_socket = options.fd_socket;
  client.geometry = GeometryOf(config);
  client.window_rows = kWindowRows;
  client.window_slots = Evaluation::kWindowSlots;
  client.plan_bytes = PlanBytes(config, task);
  return Client::Attach(client);
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
  const absl::StatusOr<std::unique_ptr<Client>> client = Attach(options, model->config, *task);
  if (!client.ok()) return client.status();

  constexpr uint32_t kRows = 2 * (1 + std::size(kPolicies) * std::size(kBudgetsPpm));
  Progress progress(kRows * options.prompts);
  Decoder decoder(*model);
  Evaluation evaluation(**client, decoder, *task, options.prompts, [&] { progress.Step(); });
  Report report{.model = std::filesystem::path(options.model).filename().string(),
                .backend = (*client)->backend(),
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

std::string DemoArena(const ModelConfig& config, const Task& task) {
  const uint64_t block_bytes = uint64_t{kBlockTokens} * 2 * config.head_dim * sizeof(float);
  const uint64_t row = BlocksFor(Evaluation::MaxTokens(task));
  const uint64_t full = row * config.units();
  // The sidecar keeps as many blocks free as the longest row has, to compact into.
  const uint64_t blocks = full + full / 2 + row;

  constexpr uint64_t kPage = 4096;
  const uint64_t extent_bytes = RoundUp(std::max<uint64_t>(64 << 10, block_bytes), std::lcm(block_bytes, kPage));
  const uint64_t extent_blocks = extent_bytes / block_bytes;
  constexpr uint64_t kTokenBytes = 12;  // kept beside every token: its position, its value's norm, its running score
  const uint64_t beside = RoundUp(extent_blocks * kBlockTokens * kTokenBytes, kPage);
  const uint64_t extents = (blocks + extent_blocks - 1) / extent_blocks;

  const uint64_t table = kvs_table_bytes(config.units(), static_cast<uint32_t>(row));
  const uint64_t tables = RoundUp(kPage + (Evaluation::kWindowSlots + 1) * table, kPage);
  const uint64_t slot = uint64_t{config.layers} * config.query_width() * kWindowRows * sizeof(float);
  const uint64_t statistics = KVS_WINDOWS_OFFSET + Evaluation::kWindowSlots * kvs_align(slot);
  const uint64_t regions = RoundUp(statistics, kPage) + tables + RoundUp(PlanBytes(config, task), kPage);
  return absl::StrCat("arena:\n  bytes: ", extents * (extent_bytes + beside) + regions,
                      "\n  extent_bytes: ", extent_bytes, "\n  table_chunk_bytes: ", tables, "\n");
}

}  // namespace kvsteward::worker
