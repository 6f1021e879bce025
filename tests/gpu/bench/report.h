// What the GPU benchmark has measured: figures with their floors and limits, a verdict on each, and the same as a
// table, as JSON and as lines for run.sh. Plain values; not thread-safe.
#pragma once

#include <string>
#include <vector>

#include "nlohmann/json.hpp"

namespace kvsteward::gpu_bench {

// Of the repetitions of one thing.
struct Reading {
  double median = 0, p10 = 0, p90 = 0;
};

// REQUIRES: there are values.
Reading ReadingOf(std::vector<double> values);

// Limits are for the median, or for its ratio to the floor; 0: there is none.
struct Limits {
  bool of_ratio = false;
  double at_most = 0;
  double good = 0;
};

struct Figure {
  std::string name;
  std::string unit;  // of the reading and the floor
  Reading reading;
  double floor = 0;  // 0: there is none
  Limits limits = {};

  double ratio() const { return floor > 0 ? reading.median / floor : 0; }
  // "good", "met", "MISSED", or "-" where nothing was to be met.
  std::string Verdict() const;
};

class Report {
 public:
  // Prints the figure as well.
  void Add(Figure figure);
  const std::vector<Figure>& figures() const { return figures_; }
  std::string Table() const;
  nlohmann::json Json() const;
  // A line per figure: name, value, floor, ratio, at most, good, verdict, separated by tabs; "-" for what is not there.
  std::string Rows() const;

 private:
  std::vector<Figure> figures_;
};

}  // namespace kvsteward::gpu_bench
