#include "kernels/plan/radix.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <functional>
#include <numeric>
#include <utility>

namespace kvsteward::engine {
namespace {

constexpr int kKeyBits = 31;
constexpr int kLeastBits = 4;  // of a digit
constexpr int kMostBits = 11;
constexpr size_t kMostSlices = 64;
constexpr size_t kWorthThreads = 1 << 14;  // scores; waking a thread costs as much as reading them

// Counts scores by the value of a digit: the lowest bits of the key above `shift`, as many as `bins` has values for.
class DigitCounts {
 public:
  explicit DigitCounts(size_t bins) : bins_(bins) {}

  void Count(std::span<const float> row, int shift) {
    counts_.assign(2 * bins_, 0);
    uint32_t* even = counts_.data();  // neighbouring scores are often alike: they do not wait for one counter
    uint32_t* odd = even + bins_;
    const auto mask = static_cast<uint32_t>(bins_ - 1);
    const auto digit = [&](size_t j) { return static_cast<uint32_t>(KeyOf(row[j])) >> shift & mask; };
    size_t j = 0;
    for (; j + 1 < row.size(); j += 2) {
      ++even[digit(j)];
      ++odd[digit(j + 1)];
    }
    if (j < row.size()) ++even[digit(j)];
  }

  int64_t operator[](size_t bin) const { return int64_t{counts_[bin]} + counts_[bins_ + bin]; }

 private:
  size_t bins_;
  std::vector<uint32_t> counts_;
};

// The search for the key at which a joint selection cuts, a digit at a time from the top.
// Invariants: `inside_[u]` are row u's scores within `range_` (and the marks, as long as that is everything), but none
// if its bounds leave it no choice there; `above_[u]` counts its scores over the range. Of the ranks that lie within
// the range and between the rows' bounds, the first `missing_` are still to be taken.
class JointSearch {
 public:
  // REQUIRES: as SelectJointly; some are to be taken beyond the least.
  JointSearch(std::span<const std::span<const float>> rows, std::span<const int64_t> least,
              std::span<const int64_t> most, int64_t total, const ParallelFor& parallel)
      : least_(least),
        most_(most),
        parallel_(parallel),
        inside_(rows.begin(), rows.end()),
        above_(rows.size(), 0),
        missing_(total - std::accumulate(least.begin(), least.end(), int64_t{0})),
        slices_(std::min(rows.size(), kMostSlices)) {
    for (size_t u = 0; u < rows.size(); ++u) {
      if (least[u] == most[u]) inside_[u] = {};
    }
    for (size_t i = 0; i < slices_.size(); ++i) {
      slices_[i].first = rows.size() * i / slices_.size();
      slices_[i].last = rows.size() * (i + 1) / slices_.size();
    }
  }

  JointSelection Run() && {
    // About as many values of a digit as a row has scores: to clear and add up counts then costs no more than to count.
    const int most_bits =
        std::clamp(static_cast<int>(std::bit_width(SizeInside() / inside_.size())), kLeastBits, kMostBits);
    for (int left = kKeyBits; left > 0;) {
      const int bits = std::min(most_bits, left);
      left -= bits;
      FixDigit(bits, left);
    }
    ForEachSlice([&](Slice& slice) { Narrow(slice); });
    return Finish();
  }

 private:
  // Some of the rows, which one task works on.
  struct Slice {
    size_t first = 0;
    size_t last = 0;
    std::vector<float> scores;       // what rows have inside, unless they have everything
    std::vector<int64_t> competing;  // [values of the digit] ranks between the rows' bounds
  };

  size_t SizeInside() const {
    return std::transform_reduce(inside_.begin(), inside_.end(), size_t{0}, std::plus(),
                                 [](std::span<const float> row) { return row.size(); });
  }

  template <class Body>
  void ForEachSlice(const Body& body) {
    const auto one = [&](int64_t i) { body(slices_[static_cast<size_t>(i)]); };
    const auto count = static_cast<int64_t>(slices_.size());
    SizeInside() < kWorthThreads ? Serially(count, one) : parallel_(count, one);
  }

  // What row u gives when `count` of its candidates would be taken.
  int64_t Bounded(size_t u, int64_t count) const { return std::clamp(count, least_[u], most_[u]); }

  // Makes the slice's rows follow the range.
  void Narrow(Slice& slice) {
    std::vector<float> scores;
    std::vector<size_t> begins = {0};
    for (size_t u = slice.first; u < slice.last; ++u) {
      if (!inside_[u].empty()) {
        const KeyCount count = GatherKeys(inside_[u], range_, &scores);
        above_[u] += count.above;
        if (Bounded(u, above_[u]) == Bounded(u, above_[u] + count.within)) scores.resize(begins.back());
      }
      begins.push_back(scores.size());
    }
    slice.scores = std::move(scores);
    for (size_t u = slice.first; u < slice.last; ++u) {
      const size_t i = u - slice.first;
      inside_[u] = std::span(slice.scores).subspan(begins[i], begins[i + 1] - begins[i]);
    }
  }

  // Adds up, per value of the digit, the ranks of the slice's rows that lie between their bounds.
  void Compete(Slice& slice, size_t bins, int shift, DigitCounts counts) {
    slice.competing.assign(bins, 0);
    for (size_t u = slice.first; u < slice.last; ++u) {
      if (inside_[u].empty()) continue;
      counts.Count(inside_[u], shift);
      int64_t reached = above_[u];
      int64_t taken = Bounded(u, reached);
      for (size_t bin = bins; bin-- > 0;) {
        const int64_t count = counts[bin];
        if (count == 0) continue;
        reached += count;
        slice.competing[bin] += Bounded(u, reached) - taken;
        taken = Bounded(u, reached);
      }
    }
  }

  // Narrows the range to the value of the digit at which the selection reaches its total.
  void FixDigit(int bits, int shift) {
    const size_t bins = size_t{1} << bits;
    const bool everything = shift + bits == kKeyBits;  // with marks, whose sign is one bit more
    ForEachSlice([&](Slice& slice) {
      if (!everything) Narrow(slice);
      Compete(slice, bins, shift, DigitCounts(everything ? 2 * bins : bins));
    });
    size_t bin = bins;
    int64_t competing = 0;
    do {
      missing_ -= competing;
      --bin;
      competing = 0;
      for (const Slice& slice : slices_) competing += slice.competing[bin];
    } while (competing < missing_ && bin > 0);
    range_.low |= static_cast<int32_t>(bin << shift);
    range_.high = range_.low | static_cast<int32_t>((uint32_t{1} << shift) - 1);
  }

  // Shares out the ties at the key, which is all that is left inside.
  JointSelection Finish() {
    JointSelection selection{.counts = {}, .key = range_.low};
    for (size_t u = 0; u < inside_.size(); ++u) {
      const int64_t count = Bounded(u, above_[u]);
      const int64_t ties = Bounded(u, above_[u] + static_cast<int64_t>(inside_[u].size())) - count;
      const int64_t given = std::min(ties, missing_);
      selection.counts.push_back(count + given);
      missing_ -= given;
    }
    return selection;
  }

  std::span<const int64_t> least_;
  std::span<const int64_t> most_;
  const ParallelFor& parallel_;
  KeyRange range_;
  std::vector<std::span<const float>> inside_;  // [rows]
  std::vector<int64_t> above_;                  // [rows]
  int64_t missing_;
  std::vector<Slice> slices_;
};

}  // namespace

JointSelection SelectJointly(std::span<const std::span<const float>> rows, std::span<const int64_t> least,
                             std::span<const int64_t> most, int64_t total, const ParallelFor& parallel) {
  if (total == std::accumulate(least.begin(), least.end(), int64_t{0})) return {{least.begin(), least.end()}};
  return JointSearch(rows, least, most, total, parallel).Run();
}

Cut FindCut(std::span<const float> row, int64_t count) {
  const int64_t none = 0;
  const JointSelection selection =
      SelectJointly(std::span(&row, 1), std::span(&none, 1), std::span(&count, 1), count, Serially);
  return {selection.key, count - CountKeys(row, {selection.key, selection.key}).above};
}

std::vector<int32_t> SortedKeys(std::span<const float> row) {
  constexpr int kDigits = 4;
  constexpr size_t kWorthDigits = 1024;
  const auto digit = [](int32_t key, int which) { return static_cast<uint32_t>(key) >> (8 * which) & 0xff; };
  std::vector<float> candidates;
  candidates.reserve(row.size());
  GatherKeys(row, {}, &candidates);
  std::vector<int32_t> keys(candidates.size());
  std::ranges::transform(candidates, keys.begin(), KeyOf);
  if (keys.size() < kWorthDigits) {
    std::ranges::sort(keys);
    return keys;
  }
  std::array<std::array<uint32_t, 256>, kDigits> next{};  // where the next key with this value goes
  for (const int32_t key : keys) {
    for (int which = 0; which < kDigits; ++which) ++next[which][digit(key, which)];
  }
  std::vector<int32_t> sorted(keys.size());
  for (int which = 0; which < kDigits; ++which) {  // from the lowest, each stable
    uint32_t begin = 0;
    for (uint32_t& place : next[which]) begin += std::exchange(place, begin);
    for (const int32_t key : keys) sorted[next[which][digit(key, which)]++] = key;
    keys.swap(sorted);
  }
  return keys;
}

}  // namespace kvsteward::engine
