#include "service/core/run_allocator.h"

#include <iterator>

#include "absl/strings/str_cat.h"

namespace kvsteward::core {

void RunAllocator::Free(Run run) {
  if (run.count == 0) return;
  free_ += run.count;
  const auto next = by_first_.lower_bound(run.first);
  const auto before = next == by_first_.begin() ? by_first_.end() : std::prev(next);
  const bool joins_next = next != by_first_.end() && next->first == run.end();
  const bool joins_before = before != by_first_.end() && before->first + before->second == run.first;
  if (joins_before) {
    const uint32_t joined = before->second + run.count + (joins_next ? next->second : 0);
    if (joins_next) {
      by_length_.erase({next->second, next->first});
      by_first_.erase(next);
    }
    Reshape(before, {before->first, joined});
  } else if (joins_next) {
    Reshape(next, {run.first, run.count + next->second});
  } else {
    by_first_.emplace_hint(next, run.first, run.count);
    by_length_.insert({run.count, run.first});
  }
}

void RunAllocator::Free(std::span<const Row> rows) {
  Run joined;
  bool more = true;
  for (size_t place = 0; more; ++place) {
    more = false;
    for (const Row& row : rows) {
      if (place >= row.size()) continue;
      more = true;
      if (row[place].first == joined.end()) {
        joined.count += row[place].count;
      } else {
        Free(joined);
        joined = row[place];
      }
    }
  }
  Free(joined);
}

Row RunAllocator::Take(uint64_t count) {
  Row taken;
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
  if (const uint32_t left = run->second - count; left > 0) {
    Reshape(run, {first + count, left});
  } else {
    by_length_.erase({run->second, first});
    by_first_.erase(run);
  }
  free_ -= count;
  return Run{first, count};
}

void RunAllocator::Reshape(std::map<uint32_t, uint32_t>::iterator at, Run run) {
  auto length = by_length_.extract({at->second, at->first});
  length.value() = {run.count, run.first};
  by_length_.insert(std::move(length));
  at->second = run.count;
  if (at->first == run.first) return;
  const auto hint = std::next(at);
  auto first = by_first_.extract(at);
  first.key() = run.first;
  by_first_.insert(hint, std::move(first));
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
