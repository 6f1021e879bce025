#include "tests/gpu/bench/report.h"

#include <algorithm>
#include <cstdio>
#include <utility>

namespace kvsteward::gpu_bench {
namespace {

std::string Number(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), value >= 1000 ? "%.0f" : "%.2f", value);
  return value > 0 ? text : "-";
}

std::string Limit(const Figure& figure, double limit) {
  if (limit <= 0) return "-";
  return Number(limit) + (figure.limits.of_ratio ? " x" : " " + figure.unit);
}

// The cells of a figure's line in Table() and Rows().
std::vector<std::string> Cells(const Figure& figure) {
  return {figure.name,
          Number(figure.reading.median) + " " + figure.unit,
          Number(figure.floor),
          Number(figure.ratio()),
          Limit(figure, figure.limits.at_most),
          Limit(figure, figure.limits.good),
          figure.Verdict()};
}

}  // namespace

Reading ReadingOf(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t last = values.size() - 1;
  return {values[values.size() / 2], values[last / 10], values[last - last / 10]};
}

std::string Figure::Verdict() const {
  if (limits.at_most <= 0) return "-";
  const double value = limits.of_ratio ? ratio() : reading.median;
  if (limits.of_ratio && floor <= 0) return "-";
  if (limits.good > 0 && value <= limits.good) return "good";
  return value <= limits.at_most ? "met" : "MISSED";
}

void Report::Add(Figure figure) {
  std::printf("%-56s %9.2f %9.2f %9.2f %s\n", figure.name.c_str(), figure.reading.p10, figure.reading.median,
              figure.reading.p90, figure.unit.c_str());
  std::fflush(stdout);
  figures_.push_back(std::move(figure));
}

std::string Report::Table() const {
  std::vector<std::vector<std::string>> lines = {{"figure", "value", "floor", "ratio", "at most", "good", "verdict"}};
  for (const Figure& figure : figures_) lines.push_back(Cells(figure));
  std::vector<size_t> widths(lines[0].size());
  for (const auto& line : lines) {
    for (size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], line[i].size());
  }
  std::string table;
  for (const auto& line : lines) {
    for (size_t i = 0; i < line.size(); ++i) {
      const std::string padding(widths[i] - line[i].size(), ' ');
      table += i == 0 ? line[i] + padding : "  " + padding + line[i];
    }
    table += '\n';
  }
  return table;
}

nlohmann::json Report::Json() const {
  nlohmann::json json = nlohmann::json::array();
  for (const Figure& figure : figures_) {
    nlohmann::json one = {{"name", figure.name},       {"unit", figure.unit},       {"median", figure.reading.median},
                          {"p10", figure.reading.p10}, {"p90", figure.reading.p90}, {"verdict", figure.Verdict()}};
    if (figure.floor > 0) one["floor"] = figure.floor;
    if (figure.floor > 0) one["ratio"] = figure.ratio();
    if (figure.limits.at_most > 0) one["at_most"] = figure.limits.at_most;
    if (figure.limits.good > 0) one["good"] = figure.limits.good;
    json.push_back(std::move(one));
  }
  return json;
}

std::string Report::Rows() const {
  std::string rows;
  for (const Figure& figure : figures_) {
    const std::vector<std::string> cells = Cells(figure);
    for (size_t i = 0; i < cells.size(); ++i) rows += (i == 0 ? "" : "\t") + cells[i];
    rows += '\n';
  }
  return rows;
}

}  // namespace kvsteward::gpu_bench
