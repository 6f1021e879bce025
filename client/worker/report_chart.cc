#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/worker/report_svg.h"

namespace kvsteward::worker {
namespace {

// Geometry, in the drawing's units.
constexpr double kWidth = 560;
constexpr double kHeight = 340;
constexpr double kLeft = 46;
constexpr double kRight = 12;
constexpr double kTop = 14;
constexpr double kBottom = 46;
constexpr double kSpread = 13;  // between neighbouring policies at one budget, so that intervals do not overlap

double Y(double share) { return kTop + (1 - share) * (kHeight - kTop - kBottom); }

// Budgets of the report, ascending.
std::vector<double> Budgets(const Report& report) {
  std::vector<double> budgets;
  for (const ReportRow& row : report.rows) {
    if (row.policy != "full") budgets.push_back(row.budget_fraction);
  }
  std::sort(budgets.begin(), budgets.end());
  budgets.erase(std::unique(budgets.begin(), budgets.end()), budgets.end());
  return budgets;
}

std::string Axes(const std::vector<double>& budgets, double step) {
  std::string svg;
  for (int percent = 0; percent <= 100; percent += 20) {
    absl::StrAppendFormat(&svg,
                          R"(<line class="grid" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>)"
                          R"(<text class="tick" x="%.1f" y="%.1f" text-anchor="end">%d%s</text>)",
                          kLeft, kWidth - kRight, Y(percent / 100.0), Y(percent / 100.0), kLeft - 8,
                          Y(percent / 100.0) + 4, percent, percent == 100 ? " %" : "");
  }
  for (size_t i = 0; i < budgets.size(); ++i) {
    const double x = kLeft + step * (static_cast<double>(i) + 0.5);
    absl::StrAppendFormat(&svg, R"(<text class="tick" x="%.1f" y="%.1f" text-anchor="middle">%.0f %%</text>)", x,
                          kHeight - kBottom + 20, 100 * budgets[i]);
    if (i > 0) {
      absl::StrAppendFormat(&svg, R"(<line class="grid" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>)", x - step / 2,
                            x - step / 2, kTop, kHeight - kBottom);
    }
  }
  absl::StrAppendFormat(&svg,
                        R"(<text class="axis" x="%.1f" y="%.1f" text-anchor="middle">budget, of the prompt</text>)",
                        (kLeft + kWidth - kRight) / 2, kHeight - 6);
  return svg;
}

// The interval and the marker of one row, with what it says when pointed at.
std::string Point(const ReportRow& row, size_t policy, double x) {
  const auto [low, high] = WilsonInterval(row.right, row.answers);
  return absl::StrFormat(
      R"(<g><title>%s at %.0f %% (%u tokens a head): %.1f %% right, 95 %% interval %.1f to %.1f %%</title>)"
      R"(<line class="whisker" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>%s</g>)",
      row.policy, 100 * row.budget_fraction, row.budget_tokens, 100 * row.recall(), 100 * low, 100 * high, x, x, Y(low),
      Y(high), MarkerSvg(policy, x, Y(row.recall())));
}

}  // namespace

std::vector<std::string> PoliciesOf(const Report& report) {
  std::vector<std::string> policies;
  for (const ReportRow& row : report.rows) {
    if (row.policy == "full" || std::find(policies.begin(), policies.end(), row.policy) != policies.end()) continue;
    policies.push_back(row.policy);
  }
  return policies;
}

std::string MarkerSvg(size_t policy, double x, double y) {
  switch (policy % 4) {
    case 0:
      return absl::StrFormat(R"(<circle class="marker" cx="%.1f" cy="%.1f" r="4"/>)", x, y);
    case 1:
      return absl::StrFormat(R"(<rect class="marker" x="%.1f" y="%.1f" width="7.4" height="7.4"/>)", x - 3.7, y - 3.7);
    case 2:
      return absl::StrFormat(R"(<path class="marker" d="M%.1f %.1fl5 5l-5 5l-5 -5z"/>)", x, y - 5);
    default:
      return absl::StrFormat(R"(<path class="marker" d="M%.1f %.1fl4.8 8.4h-9.6z"/>)", x, y - 5);
  }
}

std::string RecallChart(const Report& report, PromptKind kind) {
  const std::vector<std::string> policies = PoliciesOf(report);
  const std::vector<double> budgets = Budgets(report);
  const double step = (kWidth - kLeft - kRight) / static_cast<double>(std::max<size_t>(1, budgets.size()));
  std::string svg = absl::StrFormat(R"(<svg class="chart" viewBox="0 0 %.0f %.0f" role="img" aria-label="Recall over )"
                                    R"(budget, %s prompts">)",
                                    kWidth, kHeight, Name(kind));
  absl::StrAppend(&svg, Axes(budgets, step));
  for (const ReportRow& row : report.rows) {
    if (row.kind != kind || row.policy != "full") continue;
    absl::StrAppendFormat(&svg,
                          R"(<g><title>full cache: %.1f %% right</title><line class="full" x1="%.1f" x2="%.1f" )"
                          R"(y1="%.1f" y2="%.1f"/></g>)",
                          100 * row.recall(), kLeft, kWidth - kRight, Y(row.recall()), Y(row.recall()));
  }
  for (size_t policy = 0; policy < policies.size(); ++policy) {
    std::string line;
    std::string points;
    for (size_t i = 0; i < budgets.size(); ++i) {
      const auto row = std::find_if(report.rows.begin(), report.rows.end(), [&](const ReportRow& candidate) {
        return candidate.kind == kind && candidate.policy == policies[policy] &&
               candidate.budget_fraction == budgets[i];
      });
      if (row == report.rows.end()) continue;
      const double x = kLeft + step * (static_cast<double>(i) + 0.5) +
                       kSpread * (static_cast<double>(policy) - (static_cast<double>(policies.size()) - 1) / 2);
      absl::StrAppendFormat(&line, "%s%.1f %.1f", line.empty() ? "M" : "L", x, Y(row->recall()));
      absl::StrAppend(&points, Point(*row, policy, x));
    }
    absl::StrAppendFormat(&svg, R"(<g class="p%d%s"><path class="line" d="%s"/>%s</g>)", policy,
                          policies[policy] == kDefaultPolicy ? " default" : "", line, points);
  }
  return svg + "</svg>";
}

}  // namespace kvsteward::worker
