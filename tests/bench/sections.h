// The sections of kvsteward_bench: each measures, prints and returns its part of the JSON file.
#pragma once

#include "nlohmann/json.hpp"
#include "tests/bench/fixture.h"

namespace kvsteward::bench {

// One layer: scoring against two QK passes at the measured multiply-add rate, selection against scoring, compaction
// against a copy of the same bytes.
nlohmann::json MeasureStages(const Options& options);
// Every preset's plan at equal window against ahakv's, one layer, norms cached.
nlohmann::json MeasurePresets(const Options& options);
// Cost per token from 1,024 to 262,144 tokens.
nlohmann::json MeasureScaling(const Options& options);
// Every preset's heap at its peak against the bound.
nlohmann::json MeasureWorkspace(const Options& options);

// Scores one layer per line of standard input and prints the seconds, for bench.py.
int Serve(const Options& options);

}  // namespace kvsteward::bench
