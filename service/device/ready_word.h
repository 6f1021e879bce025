// The word by which a worker says that what a job reads is written. It lies in memory that the worker writes at any
// time: what is found there decides when the job is begun or that it is refused, and nothing else. Immutable.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "service/core/types.h"

namespace kvsteward::device {

class ReadyWord {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // REQUIRES: `statistics` is a statistics region and outlives this; wanted.slot < KVS_WORDS.
  ReadyWord(core::WordValue wanted, std::span<const std::byte> statistics, Time deadline);

  Time deadline() const { return deadline_; }
  // What the worker wrote before the word had reached the value can then be read.
  bool Reached() const;
  // What to say if it has not been reached by the deadline.
  absl::Status Late() const;

 private:
  const core::WordValue wanted_;
  const uint32_t* const word_;
  const Time deadline_;
};

}  // namespace kvsteward::device
