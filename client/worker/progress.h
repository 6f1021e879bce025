// Progress on stderr: a bar that is redrawn on a terminal, a line every tenth of the way otherwise. One thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace kvsteward::worker {

class Progress {
 public:
  explicit Progress(uint32_t steps);
  ~Progress() { Finish(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // What is being done now.
  void Describe(std::string what);
  void Step();
  // Removes the bar.
  void Finish() const;

 private:
  void Draw() const;

  const bool terminal_;
  const uint32_t steps_;
  const std::chrono::steady_clock::time_point start_;
  uint32_t done_ = 0;
  std::string what_;
};

}  // namespace kvsteward::worker
