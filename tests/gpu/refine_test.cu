// Refinements on the device against naive loops in float64, and what is not finite against where it is.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/cuda/refine.h"
#include "kernels/cuda/select.h"
#include "tests/gpu/check.h"
#include "tests/gpu/paged_units.h"
#include "tests/kernels/random_scores.h"

namespace kvsteward::gpu_test {
namespace {

using engine::cuda::RefineStep;
using Kind = RefineStep::Kind;
using Scale = RefineStep::Scale;

constexpr double kLeastScore = 0x1p-100;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Unit {
  std::vector<float> scores;
  int32_t begin, end;
};

double Settled(double score) { return score < kLeastScore ? 0 : score; }

double NuOf(const RefineStep& step, float norm) {
  return step.norm == RefineStep::Norm::kRootOfStored ? std::sqrt(double{norm}) : double{norm};
}

// values[j - pool / 2 .. j + pool / 2], as far as they exist.
template <class T>
std::vector<double> Pool(const std::vector<T>& values, int64_t j, int32_t pool) {
  std::vector<double> seen;
  for (int64_t i = j - pool / 2; i <= j + pool / 2; ++i) {
    if (i >= 0 && i < static_cast<int64_t>(values.size())) seen.push_back(values[static_cast<size_t>(i)]);
  }
  return seen;
}

double Mean(const std::vector<double>& values, size_t count) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(count);
}

std::vector<double> Averaged(const std::vector<double>& values, const RefineStep& step) {
  std::vector<double> averaged;
  for (size_t j = 0; j < values.size(); ++j) {
    const std::vector<double> seen = Pool(values, static_cast<int64_t>(j), step.pool);
    averaged.push_back(Mean(seen, step.padded ? static_cast<size_t>(step.pool) : seen.size()));
  }
  return averaged;
}

// One step over the candidates' scores; `norms` are of all residents.
std::vector<double> Refined(std::vector<double> scores, const RefineStep& step, const std::vector<float>& norms,
                            int32_t begin) {
  const std::vector<double> before = scores;
  std::vector<double> nu;
  if (step.kind == Kind::kValuePrior || step.kind == Kind::kValueScale) {
    for (const float norm : norms) nu.push_back(NuOf(step, norm));
  }
  const std::vector<double> gamma = step.kind == Kind::kValuePrior ? Averaged(nu, step) : nu;
  const auto of_candidates = [&](const std::vector<double>& all) {
    return std::vector<double>(all.begin() + begin, all.begin() + begin + static_cast<ptrdiff_t>(scores.size()));
  };
  switch (step.kind) {
    case Kind::kMaxPool:
      for (size_t j = 0; j < scores.size(); ++j) {
        scores[j] = std::ranges::max(Pool(before, static_cast<int64_t>(j), step.pool));
      }
      break;
    case Kind::kAvgPool:
      scores = Averaged(before, step);
      break;
    case Kind::kValuePrior: {
      double z = 1;
      if (step.scale == Scale::kMax) z = std::ranges::max(gamma);
      if (step.scale == Scale::kMean) z = Mean(of_candidates(gamma), scores.size());
      for (size_t j = 0; j < scores.size() && z != 0; ++j) scores[j] *= of_candidates(gamma)[j] / z;
      break;
    }
    case Kind::kValueScale:
      for (double& score : scores) score *= std::ranges::max(of_candidates(nu));
      break;
    case Kind::kClampToMean:
      for (double& score : scores) score = std::max(score, Mean(before, before.size()));
      break;
  }
  for (double& score : scores) score = Settled(score);
  return scores;
}

struct Result {
  std::vector<float> scores;
  std::vector<uint64_t> bad;
};

// How often each value of the selection's first digit is met among each unit's candidates.
constexpr size_t kBins = size_t{1} << engine::cuda::kFirstDigitBits;
std::vector<uint32_t> FirstDigits(const std::vector<float>& refined, const std::vector<Unit>& units) {
  std::vector<uint32_t> counts(units.size() * kBins, 0);
  size_t offset = 0;
  for (size_t u = 0; u < units.size(); ++u) {
    for (int32_t j = units[u].begin; j < units[u].end; ++j) {
      ++counts[u * kBins + (std::bit_cast<uint32_t>(refined[offset + static_cast<size_t>(j)]) >> 20 & (kBins - 1))];
    }
    offset += units[u].scores.size();
  }
  return counts;
}

Result OnDevice(const PagedUnits& paged, const HostUnits& host, const std::vector<Unit>& units,
                const std::vector<RefineStep>& steps) {
  std::vector<float> all;
  std::vector<int32_t> begins, ends;
  for (const Unit& unit : units) {
    all.insert(all.end(), unit.scores.begin(), unit.scores.end());
    begins.push_back(unit.begin);
    ends.push_back(unit.end);
  }
  const DeviceArray<int32_t> begin(begins), end(ends);
  const size_t workspace_bytes = engine::cuda::RefineWorkspaceBytes(paged.units());
  Result results[2];
  for (Result& result : results) {
    const DeviceArray<float> scores(all), refined(std::vector<float>(all.size(), kNan));
    const DeviceArray<uint64_t> bad(std::vector<uint64_t>(host.count(), 3));
    const DeviceArray<uint8_t> workspace(std::vector<uint8_t>(workspace_bytes, &result == results ? 0xff : 0x11));
    const bool counts = &result != results;  // the second time
    const DeviceArray<uint32_t> first_counts(std::vector<uint32_t>(host.count() * kBins, 0));
    CHECK_CUDA(engine::cuda::LaunchRefine(paged.pool(), paged.units(), {begin.data(), end.data()}, steps.data(),
                                          static_cast<int32_t>(steps.size()), scores.data(), refined.data(), bad.data(),
                                          workspace.data(), nullptr, counts ? first_counts.data() : nullptr));
    CHECK_CUDA(cudaDeviceSynchronize());
    result = {refined.Read(), bad.Read()};
    if (counts) CHECK(first_counts.Read() == FirstDigits(result.scores, units));
  }
  const auto bits = [](float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); };
  CHECK(std::ranges::equal(results[0].scores, results[1].scores, bits) && results[0].bad == results[1].bad);
  return results[0];
}

void Compare(std::mt19937& random, const HostUnits& host, const std::vector<Unit>& units,
             const std::vector<RefineStep>& steps) {
  const Result device = OnDevice(PagedUnits(random, host), host, units, steps);
  for (size_t u = 0; u < units.size(); ++u) {
    const Unit& unit = units[u];
    CHECK(device.bad[u] == engine::cuda::kNothingBad);
    std::vector<double> scores;
    for (int32_t j = unit.begin; j < unit.end; ++j) scores.push_back(Settled(unit.scores[static_cast<size_t>(j)]));
    for (const RefineStep& step : steps) {
      if (!scores.empty()) scores = Refined(scores, step, host.norms[u], unit.begin);
    }
    const double mean = scores.empty() ? 0 : Mean(scores, scores.size());
    bool same = true;
    for (int32_t j = 0; j < host.length[u]; ++j) {
      const float score = device.scores[static_cast<size_t>(host.offset[u] + j)];
      if (j < unit.begin || j >= unit.end) {
        same = same && score == -1.0f;
        continue;
      }
      // Stricter than a plan needs: there is no attention here.
      const double expected = scores[static_cast<size_t>(j - unit.begin)];
      same = same && std::fabs(score - expected) <= 1e-6 * std::max(expected, 1e-3 * mean) + kLeastScore;
    }
    if (!CHECK(same)) {
      std::printf("  unit %zu of %d, candidates [%d, %d), %zu steps, first kind %d pool %d\n", u, host.length[u],
                  unit.begin, unit.end, steps.size(), steps.empty() ? -1 : static_cast<int>(steps[0].kind),
                  steps.empty() ? 0 : steps[0].pool);
    }
  }
}

std::vector<Unit> DrawScores(std::mt19937& random, const HostUnits& host, uint32_t kind) {
  std::vector<Unit> units;
  for (const int32_t length : host.length) {
    Unit unit;
    // No greatest floats: a prior would make them infinite.
    for (int32_t j = 0; j < length; ++j) unit.scores.push_back(engine::DrawScore(random, kind == 6 ? 3 : kind));
    const auto bound = static_cast<uint32_t>(length) + 1;
    unit.begin = std::min(length, static_cast<int32_t>(random() % 5));
    unit.end = random() % 3 == 0 ? std::max(unit.begin, static_cast<int32_t>(random() % bound)) : length;
    // What protected tokens scored, nobody reads.
    for (int32_t j = 0; j < unit.begin; ++j) unit.scores[static_cast<size_t>(j)] = kNan;
    for (int32_t j = unit.end; j < length; ++j) unit.scores[static_cast<size_t>(j)] = kInfinity;
    units.push_back(unit);
  }
  return units;
}

void TestRandom() {
  std::mt19937 random(1);
  const std::vector<int32_t> sizes = {0, 1, 2, 7, 16, 17, 100, 2047, 2048, 2049, 5000};
  const int32_t pools[] = {1, 3, 7, 33, 1025};
  for (uint32_t round = 0; round < (Small() ? 20 : kEmulated ? 40 : 150); ++round) {
    std::vector<int32_t> lengths;
    for (int i = 0; i < 6; ++i) lengths.push_back(sizes[random() % sizes.size()]);
    HostUnits host = DrawUnits(random, lengths);
    if (round % 10 == 0) std::ranges::fill(host.norms[0], 0.0f);  // z = 0: the prior is 1
    std::vector<RefineStep> steps;
    for (uint32_t i = round % 4; i > 0; --i) {
      steps.push_back({.kind = static_cast<Kind>(random() % 5),
                       .pool = pools[random() % (round % 7 == 0 ? 5 : 4)],
                       .padded = random() % 2 == 0,
                       .norm = static_cast<RefineStep::Norm>(random() % 2),
                       .scale = static_cast<Scale>(random() % 3)});
    }
    Compare(random, host, DrawScores(random, host, random() % engine::kScoreKinds), steps);
  }
}

void TestNotFinite() {
  std::mt19937 random(2);
  const HostUnits host = DrawUnits(random, {5000, 5000, 5000, 5000, 5000});
  std::vector<Unit> units(5, {std::vector<float>(5000, 0.5f), 4, 4900});
  units[0].scores[4899] = kNan;
  units[0].scores[4500] = kInfinity;
  units[1].scores[3] = kNan;  // protected
  units[2].scores[2048] = 3e38f;
  units[3].scores[4] = kNan;
  units[4].scores[100] = -kInfinity;  // below the least
  const PagedUnits paged(random, host);
  // The score, doubled by the largest norm, is finite before the first step and not after the second.
  const RefineStep pool = {.kind = Kind::kMaxPool, .pool = 3};
  const RefineStep scale = {.kind = Kind::kValueScale};
  const Result result = OnDevice(paged, host, units, {pool, scale, pool});
  const uint64_t none = engine::cuda::kNothingBad;
  CHECK(result.bad[0] == 4500);
  CHECK(result.bad[1] == none);
  CHECK(result.bad[2] == (uint64_t{2} << 32 | 2047));
  CHECK(result.bad[3] == 4);
  CHECK(result.bad[4] == none);

  HostUnits loud = host;
  loud.norms[1][4000] = kNan;
  const Result prior = OnDevice(PagedUnits(random, loud), loud, units, {{.kind = Kind::kValuePrior}});
  CHECK(prior.bad[1] == (uint64_t{1} << 32 | 4));  // its maximum is none
  CHECK(prior.bad[4] == none);
}

void TestRefusals() {
  std::mt19937 random(3);
  const HostUnits host = DrawUnits(random, {10});
  const PagedUnits paged(random, host);
  const DeviceArray<uint64_t> bad(1);
  const auto launch = [&](int32_t width) {
    const RefineStep step = {.kind = Kind::kAvgPool, .pool = width};
    return engine::cuda::LaunchRefine(paged.pool(), paged.units(), {}, &step, 1, nullptr, nullptr, bad.data(), nullptr,
                                      nullptr);
  };
  CHECK(launch(2) == cudaErrorInvalidValue);
  CHECK(launch(-1) == cudaErrorInvalidValue);
  CHECK(launch(1027) == cudaErrorNotSupported);
}

}  // namespace
}  // namespace kvsteward::gpu_test

int main() {
  kvsteward::gpu_test::TestRandom();
  kvsteward::gpu_test::TestNotFinite();
  kvsteward::gpu_test::TestRefusals();
  return kvsteward::gpu_test::TestResult();
}
