// The drawings of the HTML report, as SVG elements that take their colours from the page's style. Pure functions.
#pragma once

#include <string>
#include <vector>

#include "client/worker/report.h"

namespace kvsteward::worker {

inline constexpr char kDefaultPolicy[] = "ahakv-ada";  // the sidecar's; drawn to stand out

// Policies in the order in which they first appear, without "full": a policy's index is its colour and its marker.
std::vector<std::string> PoliciesOf(const Report& report);

// A policy's marker, centred on (x, y).
std::string MarkerSvg(size_t policy, double x, double y);

// Recall over budget for one kind of prompt: a line per policy, with intervals.
std::string RecallChart(const Report& report, PromptKind kind);

// Where the pairs and the questions of a prompt lie: the ruler above its pictures.
std::string PromptRuler(const Report& report, const Prompt& prompt);

// Which tokens each head kept.
std::string KeptTokens(const Report& report, const Prompt& prompt, const ReportPicture& picture);

// In how many heads the value of a question's pair was kept, mean over the questions.
double HeadsThatKeepAnAnswer(const Prompt& prompt, const ReportPicture& picture);

}  // namespace kvsteward::worker
