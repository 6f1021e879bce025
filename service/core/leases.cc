// The life of leases: the fd socket, the Hold stream, and the end. A lease's memory goes back only when its worker can
// no longer touch it: the connection is gone or given up AND its process is gone or says that it has unmapped
// everything.
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/core/state.h"

namespace kvsteward::core {

void Core::State::On(const SocketOpened& event) {
  if (sockets.contains(event.socket)) return;
  const std::optional<size_t> tenant = arena.FindTenant(event.tenant);
  const char* refusal = draining                         ? kDraining
                        : !tenant                        ? "this socket's tenant is not configured"
                        : tickets.contains(event.ticket) ? "its ticket is taken; connect again"
                                                         : nullptr;
  if (refusal != nullptr) return Emit(CloseSocket{event.socket, refusal});

  const LeaseId id = next_lease++;
  Lease& lease = leases[id];
  lease.id = id;
  lease.socket = event.socket;
  lease.tenant = event.tenant;
  lease.ticket = event.ticket;
  lease.death_observable = event.death_observable;
  lease.account.tenant = *tenant;
  sockets.emplace(event.socket, id);
  tickets.emplace(event.ticket, id);
}

Lease* Core::State::OfSocket(SocketId socket) {
  const auto found = sockets.find(socket);
  return found == sockets.end() ? nullptr : &leases.at(found->second);
}

Lease* Core::State::Named(const LeaseRef& ref, CallId call) {
  const auto found = keys.find(ref.key);
  Lease* lease = found == keys.end() ? nullptr : &leases.at(found->second);
  if (lease == nullptr || lease->state == LeaseState::kAttaching) {
    if (ref.epoch != 0 && ref.epoch < config.first_epoch) {
      Refuse(call, Code::kAborted, "the sidecar was restarted; attach again");
    } else {
      Refuse(call, Code::kNotFound, "lease.key is of no lease; connect the fd socket and attach");
    }
    return nullptr;
  }
  if (ref.epoch != lease->epoch) {
    Refuse(
        call, Code::kAborted,
        absl::StrCat("lease.epoch is ", ref.epoch, " but the lease's is ", lease->epoch, "; use what Attach replied"));
    return nullptr;
  }
  return lease;
}

Lease* Core::State::NamedLive(const LeaseRef& ref, CallId call) {
  Lease* lease = Named(ref, call);
  if (lease == nullptr || lease->state == LeaseState::kLive) return lease;
  Refuse(call, Code::kFailedPrecondition, "the lease is not live yet; open Hold and wait for its first notice");
  return nullptr;
}

Lease* Core::State::NamedServing(const LeaseRef& ref, CallId call) {
  Lease* lease = NamedLive(ref, call);
  if (lease == nullptr || !draining) return lease;
  RefuseDraining(call);
  return nullptr;
}

void Core::State::On(const HoldOpened& event) {
  Lease* lease = Named(event.lease, event.call);
  if (lease == nullptr) return;
  if (lease->test_failed) {
    return Refuse(event.call, Code::kFailedPrecondition,
                  "the self-test failed; connect the fd socket again and attach");
  }
  if (lease->hold != 0) Refuse(lease->hold, Code::kAborted, "a newer Hold stream of the same lease took over");
  lease->hold = event.call;
  Park(event.call, {CallKind::kHold, lease->id, 0});
  if (lease->state == LeaseState::kLive) {
    NotifyLive(*lease);
  } else if (!lease->testing) {
    lease->testing = true;
    Emit(RunSelfTest{lease->id});
  }
}

void Core::State::On(const SelfTested& event) {
  const auto found = leases.find(event.lease);
  if (found == leases.end() || !found->second.testing) return;
  Lease& lease = found->second;
  lease.testing = false;
  if (lease.ended()) return Reap(lease);
  if (event.passed) {
    lease.state = LeaseState::kLive;
    NotifyLive(lease);
    return;
  }
  lease.test_failed = true;
  if (lease.hold != 0) {
    Refuse(std::exchange(lease.hold, 0), Code::kFailedPrecondition,
           "the self-test pattern, the ticket xor 0x5a, is not where kvsteward/shm.h says; write it before Hold");
  }
  Emit(CloseSocket{lease.socket, "the self-test failed"});
}

void Core::State::NotifyLive(const Lease& lease) {
  if (lease.hold == 0) return;
  Emit(Notify{lease.hold, NoticeKind::kLive});
  if (draining) Emit(Notify{lease.hold, NoticeKind::kDraining});
}

void Core::State::On(const SocketClosed& event) {
  Lease* lease = OfSocket(event.socket);
  if (lease == nullptr || lease->ended()) return;
  End(*lease);
  Reap(*lease);
}

void Core::State::On(const Detached& event) { Confirm(event.socket); }
void Core::State::On(const ProcessGone& event) { Confirm(event.socket); }

void Core::State::Confirm(SocketId socket) {
  Lease* lease = OfSocket(socket);
  if (lease == nullptr) return;
  lease->confirmed = true;
  if (!lease->ended()) {
    Emit(CloseSocket{socket, "the lease ended"});
    End(*lease);
  }
  Reap(*lease);
}

void Core::State::End(Lease& lease) {
  lease.state = lease.death_observable ? LeaseState::kEnding : LeaseState::kQuarantined;
  tickets.erase(lease.ticket);
  if (lease.attach_begun) keys.erase(lease.key);
  arena.Quarantine(lease.account);
  if (lease.growth) Emit(DropCreates{lease.id});
  lease.growth.reset();

  const Outcome ended{Code::kUnavailable, "the lease ended; connect the fd socket again and attach", {}};
  const std::set<CallId> waiting = lease.calls;
  for (const CallId call : waiting) {
    device_calls.erase(call);
    Refuse(call, ended);
  }
  lease.attach_calls.clear();
  lease.hold = 0;
  lease.queue.clear();
  for (auto& [id, sequence] : lease.sequences) {
    if (sequence.release) sequence.release->call = 0;
  }
  for (const JobId id : lease.jobs) {
    Job& job = jobs.at(id);
    job.call = 0;
    StopJob(job);
  }
}

void Core::State::Reap(Lease& lease) {
  if (!lease.ended() || !lease.jobs.empty() || lease.testing) return;  // the sidecar itself still reads its memory
  // A lease without objects has nothing that a living worker could touch.
  if (!lease.confirmed && !lease.objects.empty()) return;
  lease.state = LeaseState::kEnding;
  for (auto& [id, owned] : lease.objects) {
    if (owned.step == ObjectStep::kReady) Destroy(lease, owned);
  }
  if (!lease.objects.empty()) return;
  sockets.erase(lease.socket);
  leases.erase(lease.id);
}

}  // namespace kvsteward::core
