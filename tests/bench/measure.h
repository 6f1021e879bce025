// Readings: how long something took, quantities with one reading a round, and the report that prints and keeps them.
// Plain values; not thread-safe.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <string>
#include <utility>
#include <vector>

#include "nlohmann/json.hpp"

namespace kvsteward::bench {

struct Time {
  double wall = 0;  // seconds
  double cpu = 0;   // of all threads
};

template <class Body>
Time Measure(const Body& body) {
  const auto cpu = [] {
    timespec now = {};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
  };
  const double cpu_begin = cpu();
  const auto begin = std::chrono::steady_clock::now();
  body();
  const double wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return {wall, cpu() - cpu_begin};
}

// Readings of one quantity. REQUIRES: there are some when they are asked for.
class Series {
 public:
  Series() = default;
  Series(double only) : values_{only} {}  // NOLINT(google-explicit-constructor): a number is a short series

  void Add(double value) { values_.push_back(value); }
  const std::vector<double>& values() const { return values_; }
  double Min() const { return *std::min_element(values_.begin(), values_.end()); }
  double Max() const { return *std::max_element(values_.begin(), values_.end()); }
  double Median() const {
    std::vector<double> sorted = values_;
    std::sort(sorted.begin(), sorted.end());
    return sorted[sorted.size() / 2];
  }

 private:
  std::vector<double> values_;
};

// A section of the JSON file, printed as it fills.
class Section {
 public:
  explicit Section(const std::string& title) { std::printf("== %s: min / median / max\n", title.c_str()); }

  void Add(const std::string& what, const std::string& key, const Series& series) {
    std::printf("%-46s %9.3f %9.3f %9.3f\n", what.c_str(), series.Min(), series.Median(), series.Max());
    std::fflush(stdout);
    json_[key] = series.values();
  }
  nlohmann::json Take() { return std::move(json_); }

 private:
  nlohmann::json json_ = nlohmann::json::object();
};

}  // namespace kvsteward::bench
