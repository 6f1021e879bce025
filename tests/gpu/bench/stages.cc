// Floors as in docs/performance.md: bytes over the rate of a copy, products over the rate of a product, whichever takes
// longer; keys are counted once, whatever a kernel reads.
#include <algorithm>
#include <string>

#include "tests/gpu/bench/sections.h"
#include "tests/gpu/bench/sequence.h"
#include "tests/gpu/check.h"

namespace kvsteward::gpu_bench {
namespace {

constexpr int32_t kShort = 32768, kLong = 131072;
constexpr int32_t kLayers = 32;
constexpr int32_t kShortVariants = 8,
                  kLongVariants = 4;  // 537 MB and 1.07 GB of keys: none is in L2 when its turn comes

const char* Name(How how) { return how == How::kGraph ? "graph" : "stream"; }

class Stages {
 public:
  Stages(Timer& timer, const Ceilings& ceilings, Report& report)
      : timer_(timer), ceilings_(ceilings), report_(report) {}

  void Measure(Sequence& sequence, int variants);
  void MeasureWhole(Sequence& sequence);
  void Export(Sequence& sequence, const std::string& mask_path);

 private:
  static double Tokens(const Sequence& sequence) { return static_cast<double>(sequence.tokens()) * kHeads; }

  // Of a layer's scores, at so many passes over the keys.
  double ScoreFloor(const Sequence& sequence, int passes) const {
    const double bytes = Tokens(sequence) * (kTokenBytes + 2 * sizeof(float));  // keys, norms; scores written
    const double flops = Tokens(sequence) * 2 * kGroup * kRows * kDim * passes;
    return std::max(bytes / ceilings_.copy, flops / ceilings_.mma);
  }
  // Four times over the scores, a mask, a list of what stays.
  double SelectFloor(const Sequence& sequence) const {
    const double bytes = 4 * sizeof(float) + 0.125 + sizeof(int32_t) / double{kKeepOneIn};
    return Tokens(sequence) * bytes / ceilings_.copy;
  }
  double CompactFloor(const Sequence& sequence) const { return 2 * sequence.MovedBytes() / ceilings_.copy; }

  int32_t MeasureScores(Sequence& sequence, int variants, const std::string& at);
  double Add(const std::string& name, const Reading& reading, double floor, Limits limits = {}) {
    report_.Add({.name = name, .unit = "us", .reading = reading, .floor = floor, .limits = limits});
    return reading.median;
  }

  Timer& timer_;
  const Ceilings ceilings_;
  Report& report_;
};

// Returns the number of units at a time that was fastest.
int32_t Stages::MeasureScores(Sequence& sequence, int variants, const std::string& at) {
  const cudaStream_t stream = timer_.stream();
  int32_t best = 0;
  double best_us = 0;
  for (const int32_t at_a_time : {8, 4, 2, 1}) {
    for (const How how : {How::kStream, How::kGraph}) {
      const double us =
          Add("scores alone, " + std::to_string(at_a_time) + " heads at a time, " + Name(how) + at,
              timer_.Time(how, variants, [&](int i) { return sequence.Score(i, 1, at_a_time, false, stream); }),
              ScoreFloor(sequence, 2));
      if (how == How::kGraph && (best == 0 || us < best_us)) {
        best = at_a_time;
        best_us = us;
      }
    }
  }
  Add("scores alone, normaliser given, graph" + at,
      timer_.Time(How::kGraph, variants, [&](int i) { return sequence.Score(i, 1, 0, true, stream); }),
      ScoreFloor(sequence, 1));
  Add("scores alone, the same layer again, graph" + at,
      timer_.Time(How::kGraph, 1, [&](int) { return sequence.Score(0, 1, best, false, stream); }),
      ScoreFloor(sequence, 2));
  return best;
}

void Stages::Measure(Sequence& sequence, int variants) {
  const cudaStream_t stream = timer_.stream();
  const bool is_short = sequence.tokens() == kShort;
  const std::string at = is_short ? ", 32k" : ", 128k";
  const int32_t best = MeasureScores(sequence, variants, at);
  const auto score = [&](int i) {
    const cudaError_t error = sequence.Score(i, 1, best, false, stream);
    return error == cudaSuccess ? sequence.Refine(Policy::kAhaKvAda, i, 1, stream) : error;
  };
  for (const How how : {How::kStream, How::kGraph}) {
    Add("score one layer, " + std::to_string(best) + " heads at a time, " + Name(how) + at,
        timer_.Time(how, variants, score), ScoreFloor(sequence, 2),
        is_short ? Limits{true, 1.6, 1.35} : Limits{true, 1.5, 1.3});
  }
  for (int32_t i = 0; i < sequence.layers(); ++i) CHECK_CUDA(score(i));
  for (const How how : {How::kStream, How::kGraph}) {
    Add(std::string("select over 8 heads, ") + Name(how) + at,
        timer_.Time(how, variants, [&](int i) { return sequence.Select(i, 1, stream); }), SelectFloor(sequence),
        is_short ? Limits{false, 20, 12} : Limits{false, 25, 16});
  }
  CHECK_CUDA(sequence.Select(0, sequence.layers(), stream));
  sequence.LayOut(stream);
  for (const How how : {How::kStream, How::kGraph}) {
    Add(std::string("compact one layer, ") + Name(how) + at,
        timer_.Time(how, variants, [&](int i) { return sequence.Compact(i, 1, stream); }), CompactFloor(sequence),
        is_short ? Limits{true, 1.7, 1.35} : Limits{true, 1.4, 1.25});
  }
  const double floor = ScoreFloor(sequence, 2) + SelectFloor(sequence) + CompactFloor(sequence);
  Add("one layer from scores to compaction, graph" + at,
      timer_.Time(How::kGraph, variants,
                  [&](int i) {
                    cudaError_t error = score(i);
                    if (error == cudaSuccess) error = sequence.Select(i, 1, stream);
                    return error == cudaSuccess ? sequence.Compact(i, 1, stream) : error;
                  }),
      floor);
}

// All layers in one sequence of launches: what the host does between selection and compaction is left out.
void Stages::MeasureWhole(Sequence& sequence) {
  const cudaStream_t stream = timer_.stream();
  const double floor = kLayers * (ScoreFloor(sequence, 2) + SelectFloor(sequence) + CompactFloor(sequence));
  Reading best;
  int32_t best_at = 0;
  const auto time = [&](How how, int32_t at_a_time) {
    return timer_.Time(how, 1, [&](int) {
      cudaError_t error = sequence.Score(0, kLayers, at_a_time, false, stream);
      if (error == cudaSuccess) error = sequence.Refine(Policy::kAhaKvAda, 0, kLayers, stream);
      if (error == cudaSuccess) error = sequence.Select(0, kLayers, stream);
      return error == cudaSuccess ? sequence.Compact(0, kLayers, stream) : error;
    });
  };
  for (const int32_t at_a_time : {2, 4, 8, 16, 32, kLayers * kHeads}) {
    const Reading reading = time(How::kGraph, at_a_time);
    Add("32 layers, " + std::to_string(at_a_time) + " heads at a time, graph, 32k", reading, floor);
    if (best_at == 0 || reading.median < best.median) {
      best = reading;
      best_at = at_a_time;
    }
  }
  Add("32 layers in one call, " + std::to_string(best_at) + " heads at a time, graph, 32k", best, floor,
      {false, 1600, 1250});
  Add("32 layers in one call, " + std::to_string(best_at) + " heads at a time, stream, 32k",
      time(How::kStream, best_at), floor, {false, 1600, 1250});
}

// The policy that PyTorch is compared on, timed for one layer as a user would wait for it.
void Stages::Export(Sequence& sequence, const std::string& mask_path) {
  const cudaStream_t stream = timer_.stream();
  const auto select = [&](int i) {
    cudaError_t error = sequence.Score(i, 1, 4, false, stream);
    if (error == cudaSuccess) error = sequence.Refine(Policy::kSnapKvAda, i, 1, stream);
    return error == cudaSuccess ? sequence.Select(i, 1, stream) : error;
  };
  for (int32_t i = 0; i < kShortVariants; ++i) CHECK_CUDA(select(i));
  sequence.LayOut(stream);  // for this policy's lists: none may be compacted into what is laid out for others
  Add("one layer of ada-snapkv, graph, 32k",
      timer_.Time(How::kGraph, kShortVariants,
                  [&](int i) {
                    const cudaError_t error = select(i);
                    return error == cudaSuccess ? sequence.Compact(i, 1, stream) : error;
                  }),
      0);
  CHECK_CUDA(cudaStreamSynchronize(stream));
  if (!mask_path.empty()) sequence.WriteMask(mask_path);
}

}  // namespace

void MeasureStages(Timer& timer, const Ceilings& ceilings, const std::string& mask_path, Report& report) {
  Stages stages(timer, ceilings, report);
  {
    Sequence sequence(kLayers, kShort, timer.stream());
    stages.Measure(sequence, kShortVariants);
    stages.MeasureWhole(sequence);
    stages.Export(sequence, mask_path);
  }
  Sequence sequence(kLongVariants, kLong, timer.stream());
  stages.Measure(sequence, kLongVariants);
}

}  // namespace kvsteward::gpu_bench
