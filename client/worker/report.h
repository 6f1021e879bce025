// What a demo run found, and its three forms: a table for the terminal, JSON for programs, one HTML file for people.
// Values.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "client/worker/task.h"

namespace kvsteward::worker {

// One kind of prompt under one policy at one budget; means are over prompts.
struct ReportRow {
  PromptKind kind = PromptKind::kAware;
  std::string policy;  // "full": nothing was evicted
  uint32_t budget_tokens = 0;
  double budget_fraction = 0;  // of the prompt
  uint32_t answers = 0;
  uint32_t right = 0;
  double agreement = 0;  // share of answers that are the full cache's
  double kl_nats = 0;    // mean over answers, of the evicted cache's distribution to the full cache's
  uint64_t kv_bytes_before = 0;
  uint64_t kv_bytes_after = 0;
  uint64_t bytes_evicted = 0;
  uint64_t bytes_returned = 0;
  double evict_ms_p50 = 0;  // of the eviction at the end of the prompt, as the worker waits for it
  double evict_ms_p99 = 0;
  double score_ms_p50 = 0;  // of which scoring
  double decode_ms_per_token = 0;
  uint32_t decode_evictions = 0;  // while answering and decoding, all prompts

  double recall() const { return answers == 0 ? 0 : static_cast<double>(right) / answers; }
};

// Which tokens of one prompt each head kept.
struct ReportPicture {
  PromptKind kind = PromptKind::kAware;
  std::string policy;
  uint32_t budget_tokens = 0;
  std::vector<std::vector<bool>> kept;  // [units][prompt tokens]
};

// Two sequences in an arena of one and a half full caches.
struct Admission {
  std::string refusal;  // what the sidecar said to the second one while the first was whole
  std::string policy;   // that evicted the first
  uint32_t budget_tokens = 0;
  uint64_t bytes_returned = 0;  // by that
};

struct Report {
  std::string model;    // name of its file
  std::string backend;  // of the sidecar
  std::string device;   // on which caches lie and attention runs: a UUID; empty: the host
  Task task;
  uint32_t layers = 0;
  uint32_t kv_heads = 0;
  uint32_t prompts = 0;         // of each kind
  uint32_t decoded_tokens = 0;  // after the answers of each prompt
  double seconds = 0;
  Admission admission = {};
  std::vector<ReportRow> rows = {};  // in the order of the table
  // The pictures' prompt of each kind, and what became of it.
  std::vector<Prompt> pictured = {};
  std::vector<ReportPicture> pictures = {};
};

// The 95 % interval of a share: Wilson's, which is right for few answers and for shares near 0 and 1.
std::pair<double, double> WilsonInterval(uint32_t right, uint32_t answers);

// In prose: "the host", or "CUDA device " and its UUID.
std::string DeviceName(const Report& report);
std::string ReportTable(const Report& report);
std::string ReportJson(const Report& report);
// Self-contained: no script, font, style or picture from elsewhere.
std::string ReportHtml(const Report& report);

}  // namespace kvsteward::worker
