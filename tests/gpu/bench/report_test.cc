// The benchmark's verdicts and tables, which no GPU is needed for.
#include "tests/gpu/bench/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvsteward::gpu_bench {
namespace {

using ::testing::HasSubstr;

Figure Score(double us) {
  return {.name = "score", .unit = "us", .reading = {us, us, us}, .floor = 20, .limits = {true, 1.6, 1.35}};
}

TEST(GpuBenchReport, ReadsMedianAndDeciles) {
  std::vector<double> values;
  for (int i = 100; i >= 0; --i) values.push_back(i);
  const Reading reading = ReadingOf(values);
  EXPECT_EQ(reading.median, 50);
  EXPECT_EQ(reading.p10, 10);
  EXPECT_EQ(reading.p90, 90);
  EXPECT_EQ(ReadingOf({3}).p90, 3);
}

TEST(GpuBenchReport, JudgesTheRatioToTheFloor) {
  EXPECT_EQ(Score(27).Verdict(), "good");
  EXPECT_EQ(Score(32).Verdict(), "met");
  EXPECT_EQ(Score(32.1).Verdict(), "MISSED");
}

TEST(GpuBenchReport, JudgesTheValueWhereLimitsAreAbsolute) {
  Figure select = Score(15);
  select.limits = {false, 20, 12};
  EXPECT_EQ(select.Verdict(), "met");
  select.reading.median = 12;
  EXPECT_EQ(select.Verdict(), "good");
  select.reading.median = 21;
  EXPECT_EQ(select.Verdict(), "MISSED");
}

TEST(GpuBenchReport, JudgesNothingWithoutLimitOrFloor) {
  Figure figure = Score(1e9);
  figure.floor = 0;
  EXPECT_EQ(figure.Verdict(), "-");
  figure = Score(1e9);
  figure.limits = {};
  EXPECT_EQ(figure.Verdict(), "-");
}

TEST(GpuBenchReport, RowsHaveSevenCells) {
  Report report;
  report.Add(Score(27));
  report.Add({.name = "copy", .unit = "GB/s", .reading = {4300, 4200, 4400}});
  EXPECT_EQ(report.Rows(), "score\t27.00 us\t20.00\t1.35\t1.60 x\t1.35 x\tgood\ncopy\t4300 GB/s\t-\t-\t-\t-\t-\n");
  EXPECT_THAT(report.Table(), HasSubstr("  verdict\nscore    27.00 us  20.00   1.35"));
  EXPECT_EQ(report.Json().at(0).at("at_most"), 1.6);
  EXPECT_FALSE(report.Json().at(1).contains("ratio"));
}

}  // namespace
}  // namespace kvsteward::gpu_bench
