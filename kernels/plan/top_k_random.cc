#include "kernels/plan/top_k_random.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/plan/philox.h"
#include "kernels/plan/radix.h"
#include "kernels/plan/rest.h"
#include "kernels/plan/row.h"

namespace kvsteward::engine {
namespace {

// A random word's standard Gumbel variate. It grows with the word.
double GumbelOf(uint32_t word) { return -std::log(-std::log((word + 0.5) * 0x1p-32)); }

// A bound on words: those below it have variates below `gumbel`.
double LeastWord(double gumbel) {
  constexpr double kSlack = 1e-6;  // far more than logarithms are wrong
  return std::exp(-std::exp(-(gumbel - kSlack))) * 0x1p32 - 1;
}

}  // namespace

void KeepTopKRandom(const Select& select, const PoolView& pool, const UnitView& unit, int32_t layer, int32_t head,
                    std::span<const float> scores, int64_t share, std::span<uint64_t> mask) {
  const int64_t drawn = select.fraction_ppm * share / kPpm;
  KeepAbove(scores, FindCut(scores, share - drawn), mask);
  if (drawn == 0) return;

  std::vector<uint32_t> words(scores.size());
  std::vector<float> halves(scores.size(), -1.0f);  // the words' upper 31 bits in the order of scores, else marks
  float best = 0;
  RowCursor cursor(unit.row);
  int64_t block = 0;
  ForEachLeft(mask, unit.length, [&](int64_t j) {
    const auto i = static_cast<size_t>(j);
    int64_t position = int64_t{unit.appended_position} + (j - unit.stored);
    if (j < unit.stored) {
      for (; block < j / kBlockTokens; ++block) cursor.Next();
      position = pool.positions[size_t{cursor.block()} * kBlockTokens + i % kBlockTokens];
    }
    words[i] =
        Philox4x32({static_cast<uint32_t>(layer), static_cast<uint32_t>(head), static_cast<uint32_t>(position), 0},
                   {select.seed, 0})[0];
    halves[i] = std::bit_cast<float>(words[i] >> 1);
    best = std::max(best, scores[i]);
  });

  // As many as are drawn have at least the variate of the greatest words' cut; who has less by more than any score
  // cannot be among them, and needs no logarithm.
  const auto cut = static_cast<uint32_t>(FindCut(halves, drawn).key) << 1;
  const double least = LeastWord(GumbelOf(cut) - best);
  std::vector<Worth> rest;
  ForEachLeft(mask, unit.length, [&](int64_t j) {
    const auto i = static_cast<size_t>(j);
    if (words[i] >= least) rest.push_back({scores[i] + GumbelOf(words[i]), j});
  });
  KeepBest(rest, drawn, mask);
}

}  // namespace kvsteward::engine
