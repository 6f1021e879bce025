#include "client/worker/report.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace kvsteward::worker {

std::pair<double, double> WilsonInterval(uint32_t right, uint32_t answers) {
  if (answers == 0) return {0, 1};
  constexpr double kZ = 1.959964;  // 95 % of a normal distribution lie within
  const double n = answers;
  const double share = right / n;
  const double middle = (share + kZ * kZ / (2 * n)) / (1 + kZ * kZ / n);
  const double half = kZ / (1 + kZ * kZ / n) * std::sqrt(share * (1 - share) / n + kZ * kZ / (4 * n * n));
  return {std::max(0.0, middle - half), std::min(1.0, middle + half)};
}

std::string DeviceName(const Report& report) {
  return report.device.empty() ? "the host" : "CUDA device " + report.device;
}

std::string ReportTable(const Report& report) {
  std::string text = absl::StrFormat(
      "%-8s  %-15s  %11s  %-20s  %6s  %7s  %29s  %17s  %7s  %9s\n"
      "%-8s  %-15s  %11s  %-20s  %6s  %7s  %8s %8s %7s %5s  %8s %8s  %7s  %9s\n",
      "", "", "budget", "", "agree", "KL", "KV cache, KiB", "evict, ms", "score", "decode",  //
      "kind", "policy", "tokens", "recall (95 %)", "%", "nats", "before", "after", "evicted", "back", "p50", "p99",
      "ms", "ms/token");
  const auto kib = [](uint64_t bytes) { return static_cast<double>(bytes) / 1024; };
  const ReportRow* last = nullptr;
  for (const ReportRow& row : report.rows) {
    if (last == nullptr || last->kind != row.kind) absl::StrAppend(&text, std::string(152, '-'), "\n");
    last = &row;
    const auto [low, high] = WilsonInterval(row.right, row.answers);
    absl::StrAppendFormat(&text,
                          "%-8s  %-15s  %5u %4.0f%%  %5.1f (%5.1f - %5.1f)  %6.1f  %7.3f  %8.0f %8.0f %7.0f %5.0f",
                          Name(row.kind), row.policy, row.budget_tokens, 100 * row.budget_fraction, 100 * row.recall(),
                          100 * low, 100 * high, 100 * row.agreement, row.kl_nats, kib(row.kv_bytes_before),
                          kib(row.kv_bytes_after), kib(row.bytes_evicted), kib(row.bytes_returned));
    if (row.bytes_evicted > 0) {
      absl::StrAppendFormat(&text, "  %8.2f %8.2f  %7.2f", row.evict_ms_p50, row.evict_ms_p99, row.score_ms_p50);
    } else {
      absl::StrAppendFormat(&text, "  %8s %8s  %7s", "-", "-", "-");
    }
    absl::StrAppendFormat(&text, "  %9.3f\n", row.decode_ms_per_token);
  }
  absl::StrAppend(&text, "\nCaches and attention on ", DeviceName(report), ", evictions by the sidecar's ",
                  report.backend, " backend.\n");
  return text;
}

std::string ReportJson(const Report& report) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  uint64_t decode_evictions = 0;
  for (const ReportRow& row : report.rows) {
    const auto [low, high] = WilsonInterval(row.right, row.answers);
    decode_evictions += row.decode_evictions;
    rows.push_back({{"kind", Name(row.kind)},
                    {"policy", row.policy},
                    {"budget_tokens", row.budget_tokens},
                    {"budget_fraction", row.budget_fraction},
                    {"recall", row.recall()},
                    {"recall_low", low},
                    {"recall_high", high},
                    {"agreement", row.agreement},
                    {"kl_nats", row.kl_nats},
                    {"kv_bytes_before", row.kv_bytes_before},
                    {"kv_bytes_after", row.kv_bytes_after},
                    {"bytes_evicted", row.bytes_evicted},
                    {"bytes_returned", row.bytes_returned},
                    {"evict_ms_p50", row.evict_ms_p50},
                    {"evict_ms_p99", row.evict_ms_p99},
                    {"score_ms_p50", row.score_ms_p50},
                    {"decode_ms_per_token", row.decode_ms_per_token}});
  }
  const nlohmann::ordered_json json = {{"model", report.model},
                                       {"context_tokens", report.task.prompt_tokens},
                                       {"prompts", report.prompts},
                                       {"answers", report.prompts * report.task.questions},  // of every row
                                       {"rows", rows},
                                       {"questions_per_prompt", report.task.questions},
                                       {"decoded_tokens_per_prompt", report.decoded_tokens},
                                       {"decode_evictions", decode_evictions},
                                       {"backend", report.backend},
                                       {"device", report.device.empty() ? "host" : report.device},
                                       {"seconds", report.seconds},
                                       {"admission",
                                        {{"refusal_while_the_first_was_whole", report.admission.refusal},
                                         {"policy", report.admission.policy},
                                         {"budget_tokens", report.admission.budget_tokens},
                                         {"bytes_returned", report.admission.bytes_returned}}}};
  return json.dump(2) + "\n";
}

}  // namespace kvsteward::worker
