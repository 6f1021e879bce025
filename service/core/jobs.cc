// The life of a job on the device, from RunEvict to JobEnded. The reply is sent when the device has let go of the
// sequence, so that a worker with the reply in hand never finds it busy.
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/core/request.h"
#include "service/core/state.h"

namespace kvsteward::core {
namespace {

constexpr uint64_t kRetryAfterUs = 10'000;  // the order of one eviction

// Whether every number is one of at least 0 and at most its `most`.
bool Within(const std::vector<int32_t>& numbers, const std::vector<int32_t>& most) {
  if (numbers.size() != most.size()) return false;
  for (size_t u = 0; u < numbers.size(); ++u) {
    if (numbers[u] < 0 || numbers[u] > most[u]) return false;
  }
  return true;
}

// Whether what the device says can be true of this sequence.
bool Fits(const EvictPlanned& event, const Job& job, const Sequence& sequence) {
  if (event.observed_tokens > sequence.written) return false;
  if (job.observe || event.no_op) return true;
  return Within(event.kept, job.result.lengths) && (event.scored.empty() || Within(event.scored, event.kept));
}

}  // namespace

template <typename ReplyKind, typename Result>
void Core::State::Deliver(const Job& job, Sequence& sequence, const Result& result) {
  if (result.outcome.ok() && job.request_id != 0) Remember(sequence, job.request_id, job.request_hash, result);
  if (job.call == 0) return;
  DeviceCall& call = device_calls.at(job.call);
  std::get<ReplyKind>(call.reply).results[job.item] = result;
  if (--call.running > 0) return;
  ReplyBody reply = std::move(call.reply);
  device_calls.erase(job.call);
  Answer(job.call, std::move(reply));
}

void Core::State::AwaitJobs(Lease& lease, CallId call, DeviceCall asked) {
  if (asked.running == 0) {
    return Answer(call, std::move(asked.reply));
  }
  device_calls.emplace(call, std::move(asked));
  Park(call, {CallKind::kDevice, lease.id, 0});
}

void Core::State::GiveBack(const Lease& lease, SequenceId sequence, const std::optional<WordValue>& done) {
  if (!done) return;
  const auto found = lease.sequences.find(sequence);
  if (found == lease.sequences.end() || found->second.job == 0) Emit(StoreDone{lease.id, *done});
}

const PolicyRef& Core::State::PolicyOf(const Lease& lease, const PolicyRef& named) const {
  return named != nullptr ? named : arena.tenants()[lease.account.tenant].policy;
}

Outcome Core::State::CheckJobs(const Lease& lease) const {
  if (lease.jobs.size() < config.queued_evicts_per_lease) return {};
  return {Code::kResourceExhausted,
          absl::StrCat("the lease has ", lease.jobs.size(), " sequences on the device, the most it may have; retry"),
          Shortage{0, 0, 0, kRetryAfterUs}};
}

void Core::State::StartJob(Lease& lease, Sequence& sequence, Job&& job, RunEvict&& ask) {
  job.id = next_job++;
  job.lease = lease.id;
  job.sequence = sequence.id;
  ask.job = job.id;
  ask.lease = lease.id;
  ask.tenant = lease.tenant;
  ask.sequence = sequence.id;
  ask.shape = lease.shape;
  ask.table = sequence.table;
  ask.units = sequence.units;
  ask.written_tokens = sequence.written;
  ask.observed_tokens = sequence.observed;
  ask.accumulated = sequence.accumulated;
  ask.norms = sequence.norms;
  ask.policy = job.result.policy;
  sequence.job = job.id;
  lease.jobs.insert(job.id);
  jobs.emplace(job.id, std::move(job));
  Emit(std::move(ask));
}

void Core::State::On(const EvictPlanned& event) {
  const auto found = jobs.find(event.job);
  if (found == jobs.end() || found->second.stage != JobStage::kPlanning) return;
  Job& job = found->second;
  Lease& lease = leases.at(job.lease);
  Sequence& sequence = lease.sequences.at(job.sequence);
  EvictResult& result = job.result;
  result.outcome = event.outcome;
  result.times = event.times;
  if (result.outcome.ok() && !Fits(event, job, sequence)) {
    result.outcome = {Code::kUnavailable, "what the device answered does not fit the sequence; ask again", {}};
  }
  if (event.norms) {
    sequence.norms = *event.norms;
    job.norms_cached = *event.norms != 0;
    for (Unit& unit : sequence.units) unit.normed = job.norms_cached ? ResidentsAt(unit, sequence.written) : 0;
  }
  if (!result.outcome.ok()) {
    result.lengths.clear();
    return EndJobOf(job);
  }
  if (event.observed_tokens > 0) {
    sequence.observed = event.observed_tokens;
    if (sequence.accumulated == nullptr) sequence.accumulated = result.policy;
    for (Unit& unit : sequence.units) unit.scored = ResidentsAt(unit, sequence.written);
  }
  if (job.observe) return EndJobOf(job);
  result.no_op = event.no_op;
  result.budget_tokens = event.budget_tokens;
  result.unsplit_layers = event.unsplit_layers;
  result.planned_on_host = event.on_host;
  result.kept = event.no_op ? result.lengths : event.kept;
  if (event.no_op || job.plan_only) return EndJobOf(job);
  if (sequence.observed > 0) job.scored = event.scored;
  for (size_t u = 0; u < result.kept.size(); ++u) {
    if (result.kept[u] < result.lengths[u]) job.shrinking.push_back(static_cast<uint32_t>(u));
  }
  if (job.cancelled || job.shrinking.empty()) return Conclude(lease, job);
  QueueWave(lease, job);
}

void Core::State::StopJob(Job& job) {
  if (job.cancelled || job.stage == JobStage::kEnding) return;
  job.cancelled = true;
  if (job.stage != JobStage::kShort) return Emit(CancelJob{job.id});
  Lease& lease = leases.at(job.lease);
  if (WithinLayer(lease, job, job.settled)) return;  // its next wave is the last
  std::erase(lease.short_jobs, job.id);
  Conclude(lease, job);
  ServeShortJobs(lease);
}

void Core::State::EndJobOf(Job& job) {
  job.stage = JobStage::kEnding;
  Emit(EndJob{job.id});
}

void Core::State::On(const JobEnded& event) {
  const auto found = jobs.find(event.job);
  if (found == jobs.end() || found->second.stage != JobStage::kEnding) return;
  Job job = std::move(found->second);
  jobs.erase(found);
  Lease& lease = leases.at(job.lease);
  Sequence& sequence = lease.sequences.at(job.sequence);
  lease.jobs.erase(job.id);
  sequence.job = 0;
  GiveBack(lease, sequence.id, job.done);
  if (job.observe) {
    Deliver<ObserveReply>(job, sequence,
                          ObserveResult{sequence.id, std::move(job.result.outcome), sequence.observed, sequence.version,
                                        job.result.times, job.result.policy});
  } else {
    job.result.version = sequence.version;
    if (job.result.outcome.ok()) {
      sequence.plan = job.plan;
    } else {
      lease.plans.Free(job.plan);
      job.result.plan = {};
    }
    Deliver<EvictReply>(job, sequence, job.result);
  }
  if (sequence.release) {
    const PendingRelease pending = *sequence.release;
    const ReleaseSequenceReply reply = Release(lease, sequence);
    RememberRelease(lease, pending.request_id, pending.request_hash, reply);
    if (pending.call != 0) Answer(pending.call, reply);
    ServeShortJobs(lease);
  }
  Reap(lease);
}

}  // namespace kvsteward::core
