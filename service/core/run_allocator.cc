#include "service/core/run_allocator.h"

#include <iterator>

#include "absl/strings/str_cat.h"

namespace kvsteward::core {

void RunAllocator::Free(Run run) {
  if (run.count == 0) return;
  free_ += run.count;
  const auto next = by_first_.lower_bound(run.first);
  if (next != by_first_.end() && next->first == run.end()) {
    run.count += next->second;
    by_length_.erase({next->second, next->first});
    by_first_.erase(next);
  }
  const auto after = by_first_.lower_bound(run.first);
  if (after != by_first_.begin()) {
    const auto before = std::prev(after);
    if (before->first + before->second == run.first) {
      by_length_.erase({before->second, before->first});
      before->second += run.count;
      by_length_.insert({before->second, before->first});
      return;
    }
  }
  by_first_.emplace(run.first, run.count);
  by_length_.insert({run.count, run.first});
}

std::vector<Run> RunAllocator::Take(uint64_t count) {
  std::vector<Run> taken;
  while (count > 0) {
    if (const std::optional<Run> all = TakeOne(count)) {
      taken.push_back(*all);
      break;
    }
    const auto [length, first] = *by_length_.rbegin();
    taken.push_back(Cut(first, length));
    count -= length;
  }
  return taken;
}

std::optional<Run> RunAllocator::TakeOne(uint64_t count) {
  if (count > longest()) return std::nullopt;
  const auto fit = by_length_.lower_bound({static_cast<uint32_t>(count), 0});
  return Cut(fit->second, static_cast<uint32_t>(count));
}

Run RunAllocator::Cut(uint32_t first, uint32_t count) {
  const auto run = by_first_.find(first);
  const uint32_t left = run->second - count;
  by_length_.erase({run->second, first});
  by_first_.erase(run);
  if (left > 0) {
    by_first_.emplace(first + count, left);
    by_length_.insert({left, first + count});
  }
  free_ -= count;
  return Run{first, count};
}

std::vector<Run> RunAllocator::Runs() const {
  std::vector<Run> runs;
  runs.reserve(by_first_.size());
  for (const auto& [first, count] : by_first_) runs.push_back({first, count});
  return runs;
}

absl::Status RunAllocator::Check() const {
  uint64_t sum = 0;
  uint64_t end = 0;  // of the run before
  bool any = false;
  for (const auto& [first, count] : by_first_) {
    if (count == 0 || (any && first <= end)) {
      return absl::InternalError(absl::StrCat("free run at ", first, " is empty or touches the one before"));
    }
    if (!by_length_.contains({count, first})) {
      return absl::InternalError(absl::StrCat("free run at ", first, " is not listed by length"));
    }
    end = uint64_t{first} + count;
    sum += count;
    any = true;
  }
  if (sum != free_ || by_length_.size() != by_first_.size()) {
    return absl::InternalError(absl::StrCat("free runs add up to ", sum, ", the count says ", free_));
  }
  return absl::OkStatus();
}

}  // namespace kvsteward::core
