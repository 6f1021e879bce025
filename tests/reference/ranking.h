// Candidates in order of merit, as the later stages of the reference take them.
#pragma once

#include "tests/reference/reference.h"

namespace kvsteward::reference {

struct Candidate {
  double score = 0;
  size_t unit = 0;
  size_t index = 0;  // of the resident
};

// All candidates of the units, best first: higher score, then lower unit, then lower position.
std::vector<Candidate> BestFirst(const std::vector<Emitted>& units);

std::vector<int64_t> CandidateCounts(const std::vector<Emitted>& units);

// How many candidates each unit keeps of `total`: its own best floors[u], and of the rest the jointly best; a unit
// offers its best offers[u] only.
std::vector<int64_t> Joint(const std::vector<Emitted>& units, const std::vector<int64_t>& floors,
                           const std::vector<int64_t>& offers, int64_t total);

// Hands out `left` one at a time in rounds to those below their cap, each round by descending remainder, then in order.
void Rounds(int64_t left, const std::vector<int64_t>& caps, const Row& remainders, std::vector<int64_t>* given);

}  // namespace kvsteward::reference
