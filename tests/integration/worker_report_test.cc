// The demo's report: its arithmetic, its keys, and that the HTML stands alone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "client/worker/report.h"

namespace kvsteward::worker {
namespace {

using testing::HasSubstr;
using testing::Not;

Report MakeReport() {
  Report report;
  report.model = "a <model> & more";
  report.backend = "host";
  report.task = {0, 1, 16, 64, 80, 64, 144, 112, 1024, 32, 8};
  report.layers = 3;
  report.kv_heads = 4;
  report.prompts = 24;
  report.admission = {"1000 bytes are needed", "ahakv-ada", 512, 786'432};
  for (const PromptKind kind : {PromptKind::kAware, PromptKind::kAgnostic}) {
    report.rows.push_back({.kind = kind,
                           .policy = "full",
                           .budget_tokens = 1024,
                           .budget_fraction = 1,
                           .answers = 192,
                           .right = 191,
                           .agreement = 1});
    report.rows.push_back({.kind = kind,
                           .policy = "ahakv-ada",
                           .budget_tokens = 102,
                           .budget_fraction = 0.1,
                           .answers = 192,
                           .right = 96,
                           .agreement = 0.75,
                           .kl_nats = 0.5,
                           .kv_bytes_before = 1'572'864,
                           .kv_bytes_after = 172'032,
                           .bytes_evicted = 1'416'192,
                           .bytes_returned = 1'400'832,
                           .evict_ms_p50 = 1.5,
                           .evict_ms_p99 = 2.5,
                           .score_ms_p50 = 0.5,
                           .decode_ms_per_token = 0.25,
                           .decode_evictions = 96});
    report.pictured.push_back(MakePrompt(report.task, kind, 0));
    report.pictures.push_back({kind, "ahakv-ada", 102, std::vector(12, std::vector<bool>(1024, true))});
  }
  return report;
}

TEST(WorkerReportTest, GivesWilsonsInterval) {
  // Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
  EXPECT_NEAR(WilsonInterval(81, 263).first, 0.2553, 5e-5);
  EXPECT_NEAR(WilsonInterval(81, 263).second, 0.3662, 5e-5);
  EXPECT_NEAR(WilsonInterval(15, 148).first, 0.0624, 5e-5);
  EXPECT_NEAR(WilsonInterval(15, 148).second, 0.1605, 5e-5);
  EXPECT_NEAR(WilsonInterval(0, 20).first, 0.0, 1e-12);
  EXPECT_NEAR(WilsonInterval(0, 20).second, 0.1611, 5e-5);
  EXPECT_NEAR(WilsonInterval(1, 29).first, 0.0061, 5e-5);
  EXPECT_NEAR(WilsonInterval(1, 29).second, 0.1718, 5e-5);
  EXPECT_NEAR(WilsonInterval(29, 29).second, 1.0, 1e-12);
}

TEST(WorkerReportTest, WritesTheKeysThatProgramsRead) {
  const auto json = nlohmann::json::parse(ReportJson(MakeReport()));
  EXPECT_EQ(json.at("model"), "a <model> & more");
  EXPECT_EQ(json.at("context_tokens"), 1024);
  EXPECT_EQ(json.at("prompts"), 24);
  EXPECT_EQ(json.at("answers"), 192);
  EXPECT_EQ(json.at("decode_evictions"), 192);
  ASSERT_EQ(json.at("rows").size(), 4u);
  const auto& row = json.at("rows")[3];
  EXPECT_EQ(row.at("kind"), "agnostic");
  EXPECT_EQ(row.at("policy"), "ahakv-ada");
  EXPECT_EQ(row.at("budget_tokens"), 102);
  EXPECT_DOUBLE_EQ(row.at("budget_fraction"), 0.1);
  EXPECT_DOUBLE_EQ(row.at("recall"), 0.5);
  EXPECT_NEAR(row.at("recall_low"), 0.43, 0.005);
  EXPECT_NEAR(row.at("recall_high"), 0.57, 0.005);
  EXPECT_DOUBLE_EQ(row.at("agreement"), 0.75);
  EXPECT_DOUBLE_EQ(row.at("kl_nats"), 0.5);
  EXPECT_EQ(row.at("kv_bytes_before"), 1'572'864);
  EXPECT_EQ(row.at("kv_bytes_after"), 172'032);
  EXPECT_EQ(row.at("bytes_evicted"), 1'416'192);
  EXPECT_EQ(row.at("bytes_returned"), 1'400'832);
  EXPECT_DOUBLE_EQ(row.at("evict_ms_p50"), 1.5);
  EXPECT_DOUBLE_EQ(row.at("evict_ms_p99"), 2.5);
  EXPECT_DOUBLE_EQ(row.at("score_ms_p50"), 0.5);
  EXPECT_DOUBLE_EQ(row.at("decode_ms_per_token"), 0.25);
}

TEST(WorkerReportTest, PrintsARowPerLine) {
  const std::string table = ReportTable(MakeReport());
  EXPECT_THAT(table, HasSubstr("\naware     full              1024  100%   99.5"));
  EXPECT_THAT(table, HasSubstr("\nagnostic  ahakv-ada          102   10%   50.0 ( 43.0 -  57.0)    75.0    0.500"));
}

TEST(WorkerReportTest, SaysWhichDeviceRan) {
  Report report = MakeReport();
  EXPECT_EQ(nlohmann::json::parse(ReportJson(report)).at("device"), "host");
  EXPECT_THAT(ReportTable(report), HasSubstr("\nCaches and attention on the host, evictions by the sidecar's host"));
  EXPECT_THAT(ReportHtml(report), HasSubstr("caches and attention on the host."));
  report.device = "GPU-01";
  EXPECT_EQ(nlohmann::json::parse(ReportJson(report)).at("device"), "GPU-01");
  EXPECT_THAT(ReportTable(report), HasSubstr("\nCaches and attention on CUDA device GPU-01, "));
  EXPECT_THAT(ReportHtml(report), HasSubstr("caches and attention on CUDA device GPU-01."));
}

TEST(WorkerReportTest, WritesHtmlThatStandsAlone) {
  const std::string html = ReportHtml(MakeReport());
  for (const char* foreign : {"http:", "https:", "src=", "@import", "url(", "<script", "<link"}) {
    EXPECT_THAT(html, Not(HasSubstr(foreign)));
  }
  EXPECT_THAT(html, Not(HasSubstr("<model>")));
  EXPECT_THAT(html, HasSubstr("a &lt;model> &amp; more"));
  EXPECT_THAT(html, HasSubstr("50.0 %</td><td class=\"soft\">43.0 to 57.0</td>"));
}

}  // namespace
}  // namespace kvsteward::worker
