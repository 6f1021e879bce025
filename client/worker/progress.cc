#include "client/worker/progress.h"

#include <unistd.h>

#include <cstdio>
#include <utility>

namespace kvsteward::worker {

Progress::Progress(uint32_t steps)
    : terminal_(isatty(STDERR_FILENO) == 1), steps_(steps), start_(std::chrono::steady_clock::now()) {}

void Progress::Describe(std::string what) {
  what_ = std::move(what);
  if (terminal_) Draw();
}

void Progress::Step() {
  const uint32_t tenth_before = done_ * 10 / steps_;
  ++done_;
  if (terminal_ || done_ * 10 / steps_ != tenth_before) Draw();
}

void Progress::Finish() const {
  if (terminal_) std::fputs("\r\033[K", stderr);
}

void Progress::Draw() const {
  const double share = static_cast<double>(done_) / steps_;
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  if (!terminal_) {
    std::fprintf(stderr, "%3.0f %%, %.0f s: %s\n", 100 * share, seconds, what_.c_str());
    return;
  }
  constexpr uint32_t kWidth = 40;
  std::string bar(static_cast<size_t>(share * kWidth), '#');
  bar.resize(kWidth, '.');
  std::fprintf(stderr, "\r\033[K[%s] %3.0f %%  %.0f s  %s", bar.c_str(), 100 * share, seconds, what_.c_str());
  std::fflush(stderr);
}

}  // namespace kvsteward::worker
