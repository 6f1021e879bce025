// Dispatch, calls that wait, status and drain.
#include "service/core/core.h"

#include <algorithm>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/core/state.h"

namespace kvsteward::core {
namespace {

// Bounds that the arithmetic relies on, whatever the configuration says.
Config Bounded(Config config) {
  config.page_bytes = std::clamp<uint64_t>(config.page_bytes, kPlaceBytes, uint64_t{1} << 40);
  config.compaction_reserve_ppm = std::clamp<int64_t>(config.compaction_reserve_ppm, 0, 999'999);
  return config;
}

}  // namespace

Core::State::State(Config given, BudgetTokens tokens)
    : config(Bounded(std::move(given))),
      budget_tokens(std::move(tokens)),
      arena(config),
      next_epoch(config.first_epoch) {}

Core::Core(Config config, BudgetTokens budget_tokens)
    : state_(std::make_unique<State>(std::move(config), std::move(budget_tokens))) {}
Core::~Core() = default;

std::vector<Effect> Core::Apply(const Event& event, Time now) {
  state_->now = now;
  state_->effects.clear();
  std::visit(
      [this](const auto& e) {
        using E = std::decay_t<decltype(e)>;
        if constexpr (requires { e.call; } && !std::is_same_v<E, CallCancelled>) {
          if (e.call == 0 || state_->calls.contains(e.call)) return;  // it came twice
        }
        state_->On(e);
      },
      event);
  state_->ReportDrained();
  return std::move(state_->effects);
}

Ledger Core::ledger() const { return state_->arena.ledger(); }
absl::Status Core::Check() const { return state_->Check(); }

void Core::State::Park(CallId call, const WaitingCall& place) {
  calls.emplace(call, place);
  leases.at(place.lease).calls.insert(call);
}

void Core::State::Forget(CallId call) {
  const auto found = calls.find(call);
  if (found == calls.end()) return;
  leases.at(found->second.lease).calls.erase(call);
  calls.erase(found);
}

void Core::State::Answer(CallId call, ReplyBody body) {
  Forget(call);
  Emit(Reply{call, Outcome{}, std::move(body)});
}

void Core::State::Refuse(CallId call, Outcome outcome) {
  Forget(call);
  Emit(Reply{call, std::move(outcome), {}});
}

void Core::State::On(const CallCancelled& event) {
  const auto found = calls.find(event.call);
  if (found == calls.end()) return;
  const WaitingCall place = found->second;
  Lease& lease = leases.at(place.lease);
  Forget(event.call);
  switch (place.kind) {
    case CallKind::kAttach:
      std::erase(lease.attach_calls, event.call);
      break;
    case CallKind::kHold:
      lease.hold = 0;
      break;
    case CallKind::kQueued:
      // What is being created for it stays with the lease, and the next in the queue waits for that.
      std::erase_if(lease.queue, [&](const QueuedCall& queued) { return queued.call == event.call; });
      break;
    case CallKind::kDevice: {
      device_calls.erase(event.call);
      for (const JobId id : lease.jobs) {
        Job& job = jobs.at(id);
        if (job.call != event.call) continue;
        job.call = 0;
        StopJob(job);
      }
      break;
    }
    case CallKind::kRelease:
      lease.sequences.at(place.sequence).release->call = 0;  // the release goes on
      break;
  }
}

void Core::State::On(const StatusAsked& event) {
  StatusReply status;
  status.ledger = arena.ledger();
  status.epoch = config.first_epoch;
  status.draining = draining;
  for (const Tenant& tenant : arena.tenants()) {
    status.tenants.push_back({tenant.name, tenant.hard_limit, tenant.charged, 0, tenant.policy});
  }
  for (const auto& [id, lease] : leases) {
    const uint64_t used = lease.ended() ? 0 : lease.account.used;  // an ended lease's are quarantined
    status.tenants[lease.account.tenant].used_bytes += used;
    status.leases.push_back({id, lease.tenant, lease.state, lease.extents, lease.account.charged(), used,
                             lease.sequences.size(), lease.jobs.size()});
  }
  Answer(event.call, std::move(status));
}

void Core::State::On(const SetTenantAsked& event) {
  const std::optional<size_t> tenant = arena.FindTenant(event.tenant);
  if (!tenant) {
    return Refuse(event.call, Code::kNotFound,
                  absl::StrCat("tenant \"", event.tenant, "\" is not configured; name one that ListTenants shows"));
  }
  arena.SetPolicy(*tenant, event.policy);
  Answer(event.call, SetTenantReply{});
}

void Core::State::On(const DrainAsked&) {
  if (draining) return;
  draining = true;
  for (auto& [id, lease] : leases) {
    if (lease.state == LeaseState::kLive && lease.hold != 0) Emit(Notify{lease.hold, NoticeKind::kDraining});
    const std::set<CallId> waiting = lease.calls;
    for (const CallId call : waiting) {
      const CallKind kind = calls.at(call).kind;
      if (kind == CallKind::kAttach || kind == CallKind::kQueued) RefuseDraining(call);
    }
    lease.attach_calls.clear();
    lease.queue.clear();
  }
}

// Only what was under way when draining began can hold it up: later calls are refused, or, like a Release, end with a
// job that was there.
void Core::State::ReportDrained() {
  if (!draining || drained || !jobs.empty()) return;
  for (const auto& [call, place] : calls) {
    if (place.kind != CallKind::kHold) return;
  }
  drained = true;
  Emit(Drained{});
}

}  // namespace kvsteward::core
