#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/worker/report.h"
#include "client/worker/report_style.h"
#include "client/worker/report_svg.h"

namespace kvsteward::worker {
namespace {

constexpr PromptKind kKinds[] = {PromptKind::kAware, PromptKind::kAgnostic};

const char* Explain(PromptKind kind) {
  return kind == PromptKind::kAware ? "Aware: the prompt ends with the questions"
                                    : "Agnostic: the questions come later";
}

std::string Escape(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '<') {
      escaped += "&lt;";
    } else if (c == '&') {
      escaped += "&amp;";
    } else if (c == '"') {
      escaped += "&quot;";
    } else {
      escaped += c;
    }
  }
  return escaped;
}

const ReportRow* Find(const Report& report, PromptKind kind, const std::string& policy, double fraction) {
  const auto row = std::find_if(report.rows.begin(), report.rows.end(), [&](const ReportRow& candidate) {
    return candidate.kind == kind && candidate.policy == policy && candidate.budget_fraction == fraction;
  });
  return row == report.rows.end() ? nullptr : &*row;
}

double SmallestBudget(const Report& report) {
  double smallest = 1;
  for (const ReportRow& row : report.rows) smallest = std::min(smallest, row.budget_fraction);
  return smallest;
}

std::string Tile(const std::string& figure, const std::string& text) {
  return absl::StrCat(R"(<div class="card tile"><b>)", figure, "</b><span>", text, "</span></div>");
}

std::string Headline(const Report& report) {
  const double budget = SmallestBudget(report);
  const ReportRow* aware = Find(report, PromptKind::kAware, kDefaultPolicy, budget);
  const ReportRow* agnostic = Find(report, PromptKind::kAgnostic, kDefaultPolicy, budget);
  std::string html = R"(<p class="eyebrow">kvsteward demo</p><h1>)";
  if (aware == nullptr || agnostic == nullptr) return html + "Recall after eviction</h1>";
  absl::StrAppendFormat(&html,
                        "With %.0f %% of its KV cache, the model answers %.0f %% of the questions it saw coming and "
                        "%.0f %% of those it did not</h1>",
                        100 * budget, 100 * aware->recall(), 100 * agnostic->recall());
  absl::StrAppendFormat(
      &html,
      R"(<p class="soft">Policy <b>%s</b>, the default; %s, a decoder of %u layers with %u kv heads each; prompts of %u )"
      R"(tokens, %u of each kind with %u questions each; caches and attention on %s. The run took %.0f s.</p>)",
      kDefaultPolicy, Escape(report.model), report.layers, report.kv_heads, report.task.prompt_tokens, report.prompts,
      report.task.questions, Escape(DeviceName(report)), report.seconds);
  absl::StrAppend(
      &html, R"(<div class="tiles">)",
      Tile(absl::StrFormat("%.0f %%", 100.0 * static_cast<double>(aware->bytes_returned) /
                                          static_cast<double>(std::max<uint64_t>(1, aware->kv_bytes_before))),
           absl::StrFormat("of the cache&#39;s bytes came back at %.0f&nbsp;%%", 100 * budget)),
      Tile(absl::StrFormat("%.2f ms", aware->evict_ms_p50),
           absl::StrFormat("for one eviction (median), of which %.2f ms scoring", aware->score_ms_p50)),
      Tile(absl::StrFormat("%.1f %%", 100 * aware->agreement), "of its answers are the full cache&#39;s"),
      Tile("1 &rarr; 2 sequences", "in memory for one and a half full caches"), "</div>");
  return html;
}

std::string HowToRead(const Report& report) {
  return absl::StrFormat(
      R"(<h2>How to read this</h2><div class="card"><dl>)"
      R"(<dt>Task</dt><dd>%u pairs "key value" lie hidden in noise. A question names a key; right is the pair&#39;s value. )"
      R"(<b>Aware</b> prompts end with the questions, so that the window of the last 32 queries sees them when the cache )"
      R"(is evicted; for <b>agnostic</b> prompts the questions come afterwards, and every pair is worth the same.</dd>)"
      R"(<dt>Budget</dt><dd>Tokens kept per kv head, mean over the layer. Some policies give one head more than another.</dd>)"
      R"(<dt>Recall</dt><dd>Share of right answers, read from the evicted cache, whose last token is decoded again first. )"
      R"(While it answers and then decodes %u tokens more, the cache is evicted again whenever a head outgrew its budget )"
      R"(by a block of 16. Intervals are Wilson&#39;s, 95 %%.</dd>)"
      R"(<dt>Agreement, KL</dt><dd>How many answers equal the full cache&#39;s, and the mean divergence of the next token&#39;s )"
      R"(distribution from the full cache&#39;s, in nats. All rows are fed the full cache&#39;s answers, so that they are )"
      R"(compared on the same tokens.</dd>)"
      R"(<dt>Bytes</dt><dd>Of one sequence&#39;s cache, in whole blocks. Evicted: keys and values of the tokens that went; )"
      R"(returned: the blocks that became free.</dd></dl></div>)",
      report.task.pairs, report.decoded_tokens);
}

std::string Charts(const Report& report) {
  const std::vector<std::string> policies = PoliciesOf(report);
  std::string html = R"(<h2>Recall over budget</h2><div class="legend">)";
  for (size_t policy = 0; policy < policies.size(); ++policy) {
    absl::StrAppendFormat(
        &html, R"(<span><svg viewBox="0 0 26 14" class="p%d%s"><path class="line" d="M0 7H26"/>%s</svg>%s</span>)",
        policy, policies[policy] == kDefaultPolicy ? " default" : "", MarkerSvg(policy, 13, 7),
        Escape(policies[policy]));
  }
  absl::StrAppend(&html,
                  R"(<span><svg viewBox="0 0 26 14"><path class="full" d="M0 7H26"/></svg>full cache</span></div>)",
                  R"(<div class="pair">)");
  for (const PromptKind kind : kKinds) {
    absl::StrAppend(&html, R"(<div class="card"><h3>)", Explain(kind), "</h3>", RecallChart(report, kind), "</div>");
  }
  return html + "</div>";
}

std::string TableRow(const Report& report, const ReportRow& row, bool first_of_policy) {
  const std::vector<std::string> policies = PoliciesOf(report);
  const auto found = std::find(policies.begin(), policies.end(), row.policy);
  const std::string colour =
      found == policies.end() ? "" : absl::StrCat(" p", static_cast<size_t>(found - policies.begin()));
  const auto [low, high] = WilsonInterval(row.right, row.answers);
  const auto kib = [](uint64_t bytes) { return static_cast<double>(bytes) / 1024; };
  std::string html = absl::StrFormat(
      R"(<tr class="%s"><td>%s</td><td>%.0f %%</td><td>%u</td>)"
      R"(<td class="track%s"><i style="width:%.0f%%"></i></td><td>%.1f %%</td>)"
      R"(<td class="soft">%.1f to %.1f</td><td>%.1f %%</td><td>%.3f</td>)"
      "<td>%.0f</td><td>%.0f</td><td>%.0f</td><td>%.0f</td>",
      first_of_policy ? "group" : "", first_of_policy ? Escape(row.policy) : "", 100 * row.budget_fraction,
      row.budget_tokens, colour, 100 * row.recall(), 100 * row.recall(), 100 * low, 100 * high, 100 * row.agreement,
      row.kl_nats, kib(row.kv_bytes_before), kib(row.kv_bytes_after), kib(row.bytes_evicted), kib(row.bytes_returned));
  if (row.bytes_evicted > 0) {
    absl::StrAppendFormat(&html, "<td>%.2f</td><td>%.2f</td><td>%.2f</td>", row.evict_ms_p50, row.evict_ms_p99,
                          row.score_ms_p50);
  } else {
    absl::StrAppend(&html, "<td></td><td></td><td></td>");
  }
  absl::StrAppendFormat(&html, "<td>%.3f</td></tr>", row.decode_ms_per_token);
  return html;
}

std::string Table(const Report& report, PromptKind kind) {
  std::string html = absl::StrCat(
      R"(<div class="card scroll"><h3>)", Explain(kind),
      "</h3><table><tr><th>policy</th><th>budget</th><th>tokens</th><th></th><th>recall</th><th>95 %</th><th>agreement"
      "</th><th>KL, nats</th><th>KiB before</th><th>after</th><th>evicted</th><th>returned</th><th>evict ms p50</th>"
      "<th>p99</th><th>scoring</th><th>ms/token</th></tr>");
  const ReportRow* last = nullptr;
  for (const ReportRow& row : report.rows) {
    if (row.kind != kind) continue;
    absl::StrAppend(&html, TableRow(report, row, last == nullptr || last->policy != row.policy));
    last = &row;
  }
  return html + "</table></div>";
}

std::string Pictures(const Report& report) {
  std::string html = R"(<h2>Which tokens each head kept</h2>)";
  if (!report.pictures.empty()) {
    absl::StrAppendFormat(
        &html,
        R"(<p class="soft">One prompt of each kind at %u tokens a head. Every row is a kv head, every )"
        R"(column a token; at the right, how many the head kept.</p>)",
        report.pictures.front().budget_tokens);
  }
  constexpr std::pair<const char*, const char*> kColours[] = {{"asked", "a pair that is asked for"},
                                                              {"pair", "another pair"},
                                                              {"question", "the questions"},
                                                              {"other", "noise that was kept"}};
  absl::StrAppend(&html, R"(<div class="legend">)");
  for (const auto& [colour, text] : kColours) {
    absl::StrAppend(&html, R"(<span><i class=")", colour, R"("></i>)", text, "</span>");
  }
  absl::StrAppend(&html, "</div>");
  for (const Prompt& prompt : report.pictured) {
    absl::StrAppend(&html, R"(<div class="card scroll"><h3>)", Explain(prompt.kind), "</h3>",
                    PromptRuler(report, prompt));
    for (const ReportPicture& picture : report.pictures) {
      if (picture.kind != prompt.kind) continue;
      absl::StrAppendFormat(
          &html, R"(<div class="picture"><h3>%s<span>an asked value stays in %.1f of %u heads</span></h3>%s</div>)",
          Escape(picture.policy), HeadsThatKeepAnAnswer(prompt, picture), picture.kept.size(),
          KeptTokens(report, prompt, picture));
    }
    absl::StrAppend(&html, "</div>");
  }
  return html;
}

std::string AdmissionCard(const Report& report) {
  const Admission& admission = report.admission;
  return absl::StrFormat(
      R"(<h2>A second sequence, admitted because eviction returned memory</h2><div class="card"><p>The arena holds one and )"
      R"(a half full caches. While the first sequence was whole, the second one&#39;s Reserve was refused:</p>)"
      R"(<p class="soft">%s</p><p>Then %s evicted the first to %u tokens a head, which returned %.0f KiB, and the same )"
      R"(Reserve succeeded. Every row above but the full cache keeps two sequences in memory in this way.</p></div>)",
      Escape(admission.refusal), Escape(admission.policy), admission.budget_tokens,
      static_cast<double>(admission.bytes_returned) / 1024);
}

}  // namespace

std::string ReportHtml(const Report& report) {
  return absl::StrCat("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">",
                      R"(<meta name="viewport" content="width=device-width, initial-scale=1">)",
                      "<title>kvsteward: recall after eviction</title><style>", kReportStyle,
                      "</style></head><body><main>", Headline(report), Charts(report), HowToRead(report),
                      "<h2>All numbers</h2>", Table(report, kKinds[0]), Table(report, kKinds[1]), AdmissionCard(report),
                      Pictures(report), "</main></body></html>\n");
}

}  // namespace kvsteward::worker
