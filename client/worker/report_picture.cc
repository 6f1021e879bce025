#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/worker/report_svg.h"

namespace kvsteward::worker {
namespace {

// Geometry, in the drawing's units: one token is one unit wide.
constexpr uint32_t kLeft = 56;
constexpr uint32_t kRight = 40;
constexpr uint32_t kBand = 8;      // height of a head
constexpr uint32_t kLayerGap = 5;  // between the heads of two layers
constexpr uint32_t kRulerHeight = 30;

// What a token of a prompt is to the questions.
enum class Role : uint8_t { kOther, kPair, kAsked, kQuestion };
constexpr const char* kRoleClasses[] = {"other", "pair", "asked", "question"};

std::vector<Role> Roles(const Prompt& prompt) {
  std::vector<Role> roles(prompt.tokens.size(), Role::kOther);
  for (const uint32_t pair : prompt.pairs) roles[pair] = roles[pair + 1] = Role::kPair;
  for (const Question& question : prompt.questions) {
    roles[question.position] = roles[question.position + 1] = Role::kAsked;
  }
  std::fill(roles.begin() + prompt.first_question_token, roles.end(), Role::kQuestion);
  return roles;
}

std::string Open(const Report& report, const char* style, uint32_t height, const std::string& label) {
  return absl::StrFormat(R"(<svg class="%s" viewBox="0 0 %u %u" role="img" aria-label="%s">)", style,
                         kLeft + report.task.prompt_tokens + kRight, height, label);
}

// One path for all kept tokens of a role: short horizontal strokes.
std::string Strokes(const std::vector<bool>& kept, const std::vector<Role>& roles, Role role, double y) {
  std::string path;
  for (size_t j = 0; j < kept.size();) {
    size_t end = j;
    while (end < kept.size() && kept[end] && roles[end] == role) ++end;
    if (end > j) absl::StrAppendFormat(&path, "M%u %gh%u", kLeft + j, y, end - j);
    j = std::max(end, j + 1);
  }
  if (path.empty()) return "";
  return absl::StrFormat(R"(<path class="%s" d="%s"/>)", kRoleClasses[static_cast<size_t>(role)], path);
}

}  // namespace

std::string PromptRuler(const Report& report, const Prompt& prompt) {
  std::string svg = Open(report, "kept ruler", kRulerHeight, "Where pairs and questions lie in the prompt");
  const std::vector<bool> all(prompt.tokens.size(), true);
  const std::vector<Role> roles = Roles(prompt);
  absl::StrAppendFormat(&svg, R"(<rect class="empty" x="%u" y="16" width="%u" height="%u"/>)", kLeft,
                        report.task.prompt_tokens, kBand + 4);
  for (const Role role : {Role::kPair, Role::kAsked, Role::kQuestion}) {
    absl::StrAppend(&svg, R"(<g class="tall">)", Strokes(all, roles, role, 22), "</g>");
  }
  absl::StrAppendFormat(&svg, R"(<text x="%u" y="26" text-anchor="end">prompt</text>)", kLeft - 6);
  for (uint32_t token = 0; token <= report.task.prompt_tokens; token += 128) {
    absl::StrAppendFormat(&svg, R"(<text x="%u" y="10" text-anchor="middle">%u</text>)", kLeft + token, token);
  }
  return svg + "</svg>";
}

std::string KeptTokens(const Report& report, const Prompt& prompt, const ReportPicture& picture) {
  const uint32_t height = report.layers * (report.kv_heads * (kBand + 1) + kLayerGap);
  std::string svg = Open(report, "kept", height, "Tokens that " + picture.policy + " kept in every head");
  const std::vector<Role> roles = Roles(prompt);
  for (size_t unit = 0; unit < picture.kept.size(); ++unit) {
    const std::vector<bool>& kept = picture.kept[unit];
    const size_t layer = unit / report.kv_heads;
    const size_t top = unit * (kBand + 1) + layer * kLayerGap;
    if (unit % report.kv_heads == 0) {
      absl::StrAppendFormat(&svg, R"(<text x="%u" y="%u" text-anchor="end">layer %u</text>)", kLeft - 6,
                            top + report.kv_heads * (kBand + 1) / 2 + 3, layer);
    }
    absl::StrAppendFormat(&svg, R"(<rect class="empty" x="%u" y="%u" width="%u" height="%u"/>)", kLeft, top,
                          report.task.prompt_tokens, kBand);
    for (const Role role : {Role::kOther, Role::kPair, Role::kAsked, Role::kQuestion}) {
      absl::StrAppend(&svg, Strokes(kept, roles, role, static_cast<double>(top) + kBand / 2.0));
    }
    absl::StrAppendFormat(&svg, R"(<text class="count" x="%u" y="%u">%u</text>)", kLeft + report.task.prompt_tokens + 5,
                          top + kBand, std::count(kept.begin(), kept.end(), true));
  }
  return svg + "</svg>";
}

double HeadsThatKeepAnAnswer(const Prompt& prompt, const ReportPicture& picture) {
  double heads = 0;
  for (const std::vector<bool>& kept : picture.kept) {
    for (const Question& question : prompt.questions) heads += kept[question.position + 1] ? 1 : 0;
  }
  return heads / static_cast<double>(prompt.questions.size());
}

}  // namespace kvsteward::worker
