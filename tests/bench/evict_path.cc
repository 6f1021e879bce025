// kvsteward_evict_bench: what one Evict costs beyond its work on the device. A whole daemon in this process answers a
// client over its real sockets; in turns it evicts with the host engine, and with an engine that only lets the same
// time pass in scoring and keeps everything (a null job of equal length through the same path).
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cpu/host_engine.h"
#include "kvsteward/client.h"
#include "kvsteward/engine/engine.h"
#include "nlohmann/json.hpp"
#include "service/device/device.h"
#include "service/memory/host_backend.h"
#include "service/memory/memory.h"
#include "service/rpc/fd_socket.h"
#include "service/rpc/server.h"
#include "service/steward/steward.h"
#include "service/telemetry/metrics.h"

namespace kvsteward::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr ModelGeometry kModel = {32, 32, 8, 128, ElementType::kBF16};
constexpr uint32_t kTokens = 512;
constexpr uint32_t kBudget = 128;
constexpr uint32_t kWindow = 32;

// The host engine, or nothing but time.
class SwitchableEngine : public engine::LayerEngine {
 public:
  // Until Work(): every layer takes `time` and keeps all its tokens.
  void PassTime(Clock::duration time) { idle_ = time; }
  void Work() { idle_ = Clock::duration::zero(); }

  std::string_view name() const override { return host_->name(); }

  absl::Status ScoreLayer(const engine::SequenceView& sequence, const engine::Policy& policy, int64_t k, int32_t layer,
                          engine::LayerScores* out) override {
    if (idle_ == Clock::duration::zero()) return host_->ScoreLayer(sequence, policy, k, layer, out);
    const auto end = Clock::now() + idle_;
    lengths_.clear();
    out->scores.clear();
    for (int32_t head = 0; head < sequence.geometry.kv_heads; ++head) {
      lengths_.push_back(sequence.units[static_cast<size_t>(layer * sequence.geometry.kv_heads + head)].length);
      const auto begin = static_cast<ptrdiff_t>(out->scores.size());
      out->scores.resize(out->scores.size() + static_cast<size_t>(lengths_.back()), 1.0f);
      std::fill_n(out->scores.begin() + begin, policy.protect.sinks, engine::kProtected);
      std::fill_n(out->scores.rbegin(), policy.protect.recent, engine::kProtected);
    }
    while (Clock::now() < end) {
    }
    return absl::OkStatus();
  }

  absl::Status AccumulateLayer(const engine::SequenceView& sequence, const engine::Policy& policy, int64_t k,
                               int32_t layer, std::vector<float>* running) override {
    return host_->AccumulateLayer(sequence, policy, k, layer, running);
  }

  void StoreRunning(const engine::SequenceView& sequence, int32_t layer, std::span<const float> running) override {
    host_->StoreRunning(sequence, layer, running);
  }

  void SelectLayer(const engine::SequenceView& sequence, const engine::Policy& policy,
                   const engine::LayerScores& scores, engine::LayerChoice& choice) override {
    if (idle_ == Clock::duration::zero()) return host_->SelectLayer(sequence, policy, scores, choice);
    std::copy(lengths_.begin(), lengths_.end(), choice.kept.begin());
  }

  absl::StatusOr<engine::Publishing> CompactUnits(const engine::SequenceView& sequence, const engine::Plan& plan,
                                                  std::span<const engine::UnitMove> moves,
                                                  const engine::TableView& table) override {
    return host_->CompactUnits(sequence, plan, moves, table);
  }

 private:
  std::unique_ptr<engine::LayerEngine> host_ = engine::NewHostLayerEngine(2);
  Clock::duration idle_{};
  std::vector<int32_t> lengths_;
};

template <class T>
T Must(absl::StatusOr<T> value) {
  if (!value.ok()) {
    std::fprintf(stderr, "kvsteward_evict_bench: %s\n", value.status().ToString().c_str());
    std::exit(1);
  }
  return *std::move(value);
}

class Daemon {
 public:
  explicit Daemon(std::unique_ptr<SwitchableEngine> engine)
      : engine_(engine.get()), memory_(memory::NewHostBackend(), memory::NewHostBackend(), kArena), device_(std::move(engine)) {
    std::string pattern = std::filesystem::temp_directory_path() / "kvsteward-bench-XXXXXX";
    directory_ = mkdtemp(pattern.data());
    core::Config config;
    config.arena_bytes = kArena;
    config.first_epoch = 1;
    config.tenants = {{"bench", kArena, std::make_shared<const engine::Policy>(*engine::Preset("ahakv-ada"))}};
    steward_ = std::make_unique<steward::Steward>(config, memory_, device_);
    fd_socket_ = Must(rpc::FdSocket::Listen({{"bench", directory_ + "/fd.sock"}}, 4,
                                            [this](core::Event event) { steward_->Post(std::move(event)); }));
    steward_->set_socket_port(fd_socket_.get());
    steward_->Start();
    fd_socket_->Start();
    rpc::ServerOptions options;
    options.address = "unix:" + directory_ + "/s.sock";
    options.admin = "unix:" + directory_ + "/a.sock";
    options.identity = {"bench", "host", "memfd"};
    server_ = Must(rpc::Server::Start(options, *steward_, metrics_));
  }

  ~Daemon() {
    steward_->Stop();
    server_.reset();
    fd_socket_.reset();
    std::filesystem::remove_all(directory_);
  }
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;

  SwitchableEngine& engine() { return *engine_; }

  ClientOptions Options() const {
    ClientOptions options;
    options.address = "unix:" + directory_ + "/s.sock";
    options.fd_socket = directory_ + "/fd.sock";
    options.geometry = kModel;
    options.window_rows = kWindow;
    return options;
  }

 private:
  static constexpr uint64_t kArena = uint64_t{512} << 20;

  std::string directory_;
  SwitchableEngine* engine_;
  memory::Memory memory_;
  device::Device device_;
  telemetry::Metrics metrics_{telemetry::Identity{"bench", "host", "memfd"}};
  std::unique_ptr<steward::Steward> steward_;
  std::unique_ptr<rpc::FdSocket> fd_socket_;
  std::unique_ptr<rpc::Server> server_;
};

struct Reading {
  double total_us = 0;   // of the call, as its caller sees it
  double device_us = 0;  // of which on the device
};

// Evicts a fresh sequence of kTokens tokens once.
Reading EvictOnce(Client& client, uint64_t id, bool compacts) {
  Sequence sequence = Must(client.CreateSequence(id, kTokens));
  if (!sequence.Reserve(kTokens).ok() || !sequence.Wrote(kTokens).ok()) std::exit(1);
  EvictOptions options;
  options.budget_tokens = kBudget;
  options.window = {.rows = kWindow, .dtype = ElementType::kBF16};
  const auto begin = Clock::now();
  const Evicted evicted = Must(sequence.Evict(options));
  const std::chrono::duration<double, std::micro> took = Clock::now() - begin;
  if ((evicted.blocks_freed > 0) != compacts) {
    std::fprintf(stderr, "kvsteward_evict_bench: an eviction freed %lu blocks\n", evicted.blocks_freed);
    std::exit(1);
  }
  return {took.count(), static_cast<double>(evicted.score_us + evicted.select_us + evicted.compact_us)};
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

void Print(const char* name, const std::vector<double>& values) {
  std::printf("%-34s %9.1f %9.1f %9.1f us  min / median / max\n", name, *std::min_element(values.begin(), values.end()),
              Median(values), *std::max_element(values.begin(), values.end()));
}

int Main(int argc, char** argv) {
  constexpr int kRounds = 31;
  Daemon daemon(std::make_unique<SwitchableEngine>());
  const std::unique_ptr<Client> client = Must(Client::Attach(daemon.Options()));
  uint64_t id = 0;
  for (int i = 0; i < 3; ++i) EvictOnce(*client, ++id, true);  // first touches of every page

  std::vector<double> real;
  std::vector<double> null;
  std::vector<double> beyond_real;
  std::vector<double> beyond_null;
  for (int round = 0; round < kRounds; ++round) {
    daemon.engine().Work();
    const Reading a = EvictOnce(*client, ++id, true);
    daemon.engine().PassTime(std::chrono::nanoseconds(static_cast<int64_t>(1e3 * a.device_us / kModel.layers)));
    const Reading b = EvictOnce(*client, ++id, false);
    real.push_back(a.total_us);
    null.push_back(b.total_us);
    beyond_real.push_back(a.total_us - a.device_us);
    beyond_null.push_back(b.total_us - b.device_us);
  }
  std::printf("Evict of %u units, %u tokens each to %u\n", kModel.units(), kTokens, kBudget);
  Print("Evict", real);
  Print("null job of equal length", null);
  Print("Evict beyond the device's work", beyond_real);
  Print("null job beyond its time", beyond_null);
  const double bound = 1.3 * Median(null) + kModel.units();
  std::printf("Evict / null job: medians %.2f, minima %.2f; Evict / (1.3 null jobs + 1 us a unit): %.2f\n",
              Median(real) / Median(null),
              *std::min_element(real.begin(), real.end()) / *std::min_element(null.begin(), null.end()),
              Median(real) / bound);
  if (argc > 2 && std::strcmp(argv[1], "--json") == 0) {
    std::ofstream(argv[2]) << nlohmann::json{{"units", kModel.units()},
                                             {"evict_us", real},
                                             {"null_us", null},
                                             {"evict_beyond_device_us", beyond_real},
                                             {"null_beyond_device_us", beyond_null}}
                                  .dump(2)
                           << "\n";
  }
  return 0;
}

}  // namespace
}  // namespace kvsteward::bench

int main(int argc, char** argv) { return kvsteward::bench::Main(argc, argv); }
