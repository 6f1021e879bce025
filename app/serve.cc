#include <spdlog/async.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <future>
#include <memory>
#include <optional>
#include <utility>
#include <variant>

#include "app/commands.h"
#include "app/open_device.h"
#include "base/unique_fd.h"
#include "kvsteward/engine/policy.h"
#include "service/core/core.h"
#include "service/device/device.h"
#include "service/memory/memory.h"
#include "service/rpc/fd_socket.h"
#include "service/rpc/read_policy.h"
#include "service/rpc/server.h"
#include "service/steward/steward.h"
#include "service/telemetry/metrics.h"

namespace kvsteward::app {
namespace {

// How long calls that slipped in behind the drain may take to hear that it is over.
constexpr std::chrono::milliseconds kLastCalls{500};

constexpr std::chrono::seconds kScrapePatience{2};

void Complain(const std::string& sentence) { std::fprintf(stderr, "kvsteward: %s\n", sentence.c_str()); }

// Logs go through a thread of their own: whoever reads our stderr slowly loses lines and stops nobody.
void StartLogging(const Config& config) {
  spdlog::init_thread_pool(8192, 1);
  auto logger =
      std::make_shared<spdlog::async_logger>("kvsteward", std::make_shared<spdlog::sinks::stderr_sink_mt>(),
                                             spdlog::thread_pool(), spdlog::async_overflow_policy::overrun_oldest);
  logger->set_pattern("time=%Y-%m-%dT%H:%M:%S.%eZ level=%l %v", spdlog::pattern_time_type::utc);
  logger->set_level(spdlog::level::from_str(config.telemetry.log_level));
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

// Every extent and every connection is a descriptor.
void RaiseDescriptorLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

sigset_t StopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  return signals;
}

// Waits for a signal to stop or for an operator's Drain.
void WaitForDrain(int signals, int drain_asked) {
  pollfd fds[] = {{signals, POLLIN, 0}, {drain_asked, POLLIN, 0}};
  while (poll(fds, std::size(fds), -1) < 0 && errno == EINTR) {
  }
}

extern "C" void ExitAtOnce(int) {
  constexpr char kText[] = "kvsteward: the drain was cut short\n";
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, kText, sizeof(kText) - 1);
  _exit(1);
}

// From here on a second signal, or the end of the grace period, ends the process wherever it may hang.
void StartGracePeriod(int64_t seconds) {
  // The first signal is still pending if it came in a pair with Drain; it must not count twice.
  const sigset_t signals = StopSignals();
  constexpr timespec kNow{};
  while (sigtimedwait(&signals, nullptr, &kNow) > 0) {
  }
  for (const int signal_number : {SIGTERM, SIGINT, SIGALRM}) std::signal(signal_number, ExitAtOnce);
  alarm(static_cast<unsigned>(seconds));
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
}

core::Config CoreConfig(const Config& config, const OpenedDevice& device) {
  core::Config core;
  core.arena_bytes = config.arena.bytes;
  core.extent_bytes = config.arena.extent_bytes;
  core.page_bytes = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  core.extent_granularity = device.extents->granularity();
  core.extent_at_attach = !device.uuid.empty();
  core.table_chunk_bytes = config.arena.table_chunk_bytes;
  core.compaction_reserve_ppm = config.arena.compaction_reserve_ppm;
  // Later than any epoch of an earlier daemon, unless that one replaced more than a lease per microsecond.
  core.first_epoch = static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::system_clock::now().time_since_epoch())
          .count());
  core.max_leases_per_tenant = static_cast<uint32_t>(config.limits.leases);
  core.max_sequences_per_lease = static_cast<uint32_t>(config.limits.sequences_per_lease);
  core.queued_evicts_per_lease = static_cast<uint32_t>(config.limits.queued_evicts_per_lease);
  for (const TenantConfig& tenant : config.tenants) {
    auto policy = std::make_shared<const engine::Policy>(*rpc::ReadPolicy(tenant.policy));  // checked when loaded
    core.tenants.push_back({tenant.name, tenant.hard_limit_bytes, std::move(policy)});
  }
  return core;
}

// Core's status, for a scrape.
std::optional<core::StatusReply> AskStatus(steward::Steward& steward) {
  auto answer = std::make_shared<std::promise<core::StatusReply>>();
  std::future<core::StatusReply> status = answer->get_future();
  const core::CallId call = steward.NewCall([answer](const core::Outcome&, const core::ReplyBody& body) {
    const auto* reply = std::get_if<core::StatusReply>(&body);
    answer->set_value(reply != nullptr ? *reply : core::StatusReply{});
  });
  steward.Post(core::StatusAsked{call});
  if (status.wait_for(kScrapePatience) == std::future_status::ready) return status.get();
  steward.CancelCall(call);
  return std::nullopt;
}

absl::Status Run(const Config& config, OpenedDevice opened) {
  const sigset_t stop_signals = StopSignals();
  const UniqueFd signals(signalfd(-1, &stop_signals, SFD_CLOEXEC | SFD_NONBLOCK));
  const UniqueFd drain_asked(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!signals || !drain_asked) return absl::UnavailableError("no descriptors are left to wait for signals with");

  const core::Config core_config = CoreConfig(config, opened);
  memory::Memory memory(std::move(opened.regions), std::move(opened.extents), config.arena.bytes);
  device::Device device(std::move(opened.engine));
  steward::Steward steward(core_config, memory, device);

  std::vector<rpc::TenantSocket> sockets;
  for (const TenantConfig& tenant : config.tenants) sockets.push_back({tenant.name, tenant.fd_socket});
  absl::StatusOr<std::unique_ptr<rpc::FdSocket>> fd_socket =
      rpc::FdSocket::Listen(sockets, static_cast<uint32_t>(config.limits.leases),
                            [&steward](core::Event event) { steward.Post(std::move(event)); });
  if (!fd_socket.ok()) return fd_socket.status();
  std::promise<void> drained;
  steward.set_socket_port(fd_socket->get());
  steward.set_on_drained([&drained] { drained.set_value(); });
  steward.Start();
  (*fd_socket)->Start();

  rpc::ServerOptions options;
  options.address = config.listen.address;
  options.admin = config.listen.admin;
  options.message_bytes = static_cast<int>(config.limits.message_bytes);
  options.identity = {KVSTEWARD_VERSION, device.backend(), memory.export_method(), opened.uuid};
  telemetry::Metrics metrics(options.identity);
  options.drain = [fd = drain_asked.get()] { eventfd_write(fd, 1); };
  absl::StatusOr<std::unique_ptr<rpc::Server>> server = rpc::Server::Start(options, steward, metrics);
  absl::Status status = server.status();
  if (status.ok() && !config.telemetry.metrics_address.empty()) {
    status = metrics.Expose(config.telemetry.metrics_address, [&steward] { return AskStatus(steward); });
  }
  if (!status.ok()) {
    steward.Stop();  // before the socket that it sends on
    return status;
  }
  spdlog::info("event=serving version={} address={} admin={} tenants={} arena_bytes={} backend={} export_method={}",
               KVSTEWARD_VERSION, config.listen.address, config.listen.admin, config.tenants.size(), config.arena.bytes,
               device.backend(), memory.export_method());

  WaitForDrain(signals.get(), drain_asked.get());
  spdlog::info("event=draining seconds={}", config.limits.drain_seconds);
  StartGracePeriod(config.limits.drain_seconds);
  (*server)->SetNotServing();
  steward.Post(core::DrainAsked{});
  drained.get_future().wait();
  metrics.Hide();
  steward.Stop();  // ends what is left, Hold streams above all
  (*server)->Shutdown(std::chrono::system_clock::now() + kLastCalls);
  (*fd_socket)->Stop();
  spdlog::info("event=stopped");
  return absl::OkStatus();
}

}  // namespace

int Serve(const Config& config) {
  const sigset_t signals = StopSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // inherited by every thread
  std::signal(SIGHUP, SIG_IGN);
  std::signal(SIGPIPE, SIG_IGN);
  umask(0077);  // sockets open up to others only by their mode
  RaiseDescriptorLimit();
  StartLogging(config);
  absl::StatusOr<OpenedDevice> device = OpenDevice(config);
  const absl::Status status = device.ok() ? Run(config, *std::move(device)) : device.status();
  spdlog::shutdown();
  if (status.ok()) return 0;
  Complain(std::string(status.message()));
  return device.ok() ? 1 : 2;
}

}  // namespace kvsteward::app
