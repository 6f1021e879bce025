#include "tests/gpu/bench/timer.h"

#include <algorithm>

#include "tests/gpu/bench/kernels.h"
#include "tests/gpu/check.h"

namespace kvsteward::gpu_bench {
namespace {

constexpr int kWarmUps = 5;       // of every variant
constexpr double kPauseUs = 150;  // some 40 launches

// A captured body, ready to be launched.
class Graph {
 public:
  Graph(cudaStream_t stream, const std::function<cudaError_t()>& body) {
    cudaGraph_t graph = nullptr;
    if (!CHECK_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal))) return;
    CHECK_CUDA(body());
    CHECK_CUDA(cudaStreamEndCapture(stream, &graph));
    if (graph == nullptr) return;
    CHECK_CUDA(cudaGraphInstantiate(&graph_, graph, 0));
    CHECK_CUDA(cudaGraphDestroy(graph));
  }
  ~Graph() {
    if (graph_ != nullptr) CHECK_CUDA(cudaGraphExecDestroy(graph_));
  }
  Graph(Graph&& other) noexcept : graph_(other.graph_) { other.graph_ = nullptr; }
  Graph& operator=(Graph&&) = delete;

  cudaError_t Launch(cudaStream_t stream) const { return cudaGraphLaunch(graph_, stream); }

 private:
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace

Timer::Timer(int repetitions) : repetitions_(repetitions) {
  CHECK_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  CHECK_CUDA(cudaEventCreate(&begin_));
  CHECK_CUDA(cudaEventCreate(&end_));
}

Timer::~Timer() {
  CHECK_CUDA(cudaEventDestroy(begin_));
  CHECK_CUDA(cudaEventDestroy(end_));
  CHECK_CUDA(cudaStreamDestroy(stream_));
}

Reading Timer::Time(How how, int variants, const std::function<cudaError_t(int)>& body) {
  std::vector<Graph> graphs;
  for (int i = 0; i < variants && how == How::kGraph; ++i) {
    graphs.emplace_back(stream_, [&] { return body(i); });
  }
  std::vector<double> samples;
  const int warm_ups = kWarmUps * variants;
  for (int i = 0; i < warm_ups + repetitions_; ++i) {
    const int variant = i % variants;
    CHECK_CUDA(LaunchPause(kPauseUs, stream_));
    CHECK_CUDA(cudaEventRecord(begin_, stream_));
    CHECK_CUDA(how == How::kGraph ? graphs[static_cast<size_t>(variant)].Launch(stream_) : body(variant));
    CHECK_CUDA(cudaEventRecord(end_, stream_));
    CHECK_CUDA(cudaEventSynchronize(end_));
    float milliseconds = 0;
    CHECK_CUDA(cudaEventElapsedTime(&milliseconds, begin_, end_));
    if (i >= warm_ups) samples.push_back(1000.0 * static_cast<double>(milliseconds));
  }
  return ReadingOf(std::move(samples));
}

}  // namespace kvsteward::gpu_bench
