// Evictions: calls, and the life of a job from RunEvict to JobEnded. The reply is sent when the device has let go of
// the sequence, so that a worker with the reply in hand never finds it busy.
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/core/request.h"
#include "service/core/state.h"

namespace kvsteward::core {
namespace {

constexpr uint64_t kRetryAfterUs = 10'000;  // the order of one eviction

// Whether the device's plan is one of this sequence: never more than there is.
bool Fits(const std::vector<int32_t>& kept, const std::vector<int32_t>& lengths) {
  if (kept.size() != lengths.size()) return false;
  for (size_t u = 0; u < kept.size(); ++u) {
    if (kept[u] < 0 || kept[u] > lengths[u]) return false;
  }
  return true;
}

}  // namespace

void Core::State::On(const EvictAsked& event) {
  Lease* lease = NamedServing(event.lease, event.call);
  if (lease == nullptr) return;
  EvictCall call;
  for (const EvictItem& item : event.items) {
    std::optional<EvictResult> result = StartEvict(*lease, event.call, call.results.size(), item);
    if (!result) ++call.running;
    call.results.push_back(result ? std::move(*result) : EvictResult{});
  }
  if (call.running == 0) return Answer(event.call, EvictReply{lease->tenant, std::move(call.results)});
  evict_calls.emplace(event.call, std::move(call));
  Park(event.call, {CallKind::kEvict, lease->id, 0});
}

std::optional<EvictResult> Core::State::StartEvict(Lease& lease, CallId call, size_t item_index,
                                                   const EvictItem& item) {
  EvictResult result;
  result.sequence = item.sequence;
  const auto refuse = [&](Outcome outcome) {
    result.outcome = std::move(outcome);
    return result;
  };
  const auto found = lease.sequences.find(item.sequence);
  if (found == lease.sequences.end()) {
    return refuse({Code::kNotFound, absl::StrCat("sequence ", item.sequence, " is unknown; create it first"), {}});
  }
  Sequence& sequence = found->second;
  result.version = sequence.version;
  Outcome repeated;
  if (const auto* past = Repeated<EvictResult>(sequence, item, repeated)) return *past;
  if (!repeated.ok()) return refuse(std::move(repeated));
  if (Outcome outcome = CheckIdle(sequence); !outcome.ok()) return refuse(std::move(outcome));
  DropPlan(lease, sequence);
  if (Outcome outcome = TakeWritten(sequence, item.written_tokens); !outcome.ok()) return refuse(std::move(outcome));
  if (item.if_version && *item.if_version != sequence.version) {
    return refuse({Code::kAborted,
                   absl::StrCat("if_version is ", *item.if_version, " but the sequence's version is ", sequence.version,
                                "; decide anew"),
                   {}});
  }
  if (lease.jobs.size() >= config.queued_evicts_per_lease) {
    return refuse({Code::kResourceExhausted,
                   absl::StrCat("the lease has ", lease.jobs.size(), " evictions running, the most it may have; retry"),
                   Shortage{0, 0, 0, kRetryAfterUs}});
  }

  Job job;
  for (const Unit& unit : sequence.units) job.result.lengths.push_back(ResidentsAt(unit, sequence.written));
  if (item.export_plan) {
    const uint64_t bytes = PlanBytes(job.result.lengths, item.export_scores);
    const std::optional<Run> place = lease.plans.TakeOne(bytes / kPlaceBytes);
    if (!place) {
      const uint64_t longest = lease.plans.longest() * kPlaceBytes;
      if (lease.plan_places == 0) {
        return refuse({Code::kFailedPrecondition, "export_plan needs a plan region; ask for plan_bytes in Attach", {}});
      }
      return refuse({Code::kResourceExhausted,
                     absl::StrCat("the plan needs ", bytes, " bytes and ", longest,
                                  " are free in the plan region; ask for more plan_bytes in Attach"),
                     Shortage{bytes, longest, 0, 0}});
    }
    job.plan = *place;
    job.result.plan = {place->first * kPlaceBytes, bytes};
  }
  job.id = next_job++;
  job.lease = lease.id;
  job.sequence = item.sequence;
  job.call = call;
  job.item = item_index;
  job.request_id = item.request_id;
  job.request_hash = item.request_hash;
  job.plan_only = item.plan_only;
  job.result.sequence = item.sequence;
  sequence.job = job.id;
  lease.jobs.insert(job.id);
  Emit(RunEvict{job.id, lease.id, lease.tenant, item.sequence, lease.shape, sequence.table, sequence.units,
                sequence.written, item.export_plan, item.export_scores, job.result.plan, item.spec});
  jobs.emplace(job.id, std::move(job));
  return std::nullopt;
}

void Core::State::On(const EvictPlanned& event) {
  const auto found = jobs.find(event.job);
  if (found == jobs.end() || found->second.stage != JobStage::kPlanning) return;
  Job& job = found->second;
  Lease& lease = leases.at(job.lease);
  Sequence& sequence = lease.sequences.at(job.sequence);
  job.norms_cached = event.norms_cached;
  if (event.norms_cached) {
    for (Unit& unit : sequence.units) unit.normed = ResidentsAt(unit, sequence.written);
  }
  EvictResult& result = job.result;
  result.outcome = event.outcome;
  result.no_op = event.no_op;
  result.budget_tokens = event.budget_tokens;
  result.times = event.times;
  result.kept = event.no_op ? result.lengths : event.kept;
  if (!event.outcome.ok()) {
    result.lengths.clear();
    result.kept.clear();
    return EndJobOf(job);
  }
  if (!Fits(result.kept, result.lengths)) {
    result.outcome = {Code::kUnavailable, "the device's plan does not fit the sequence; evict again", {}};
    result.lengths.clear();
    result.kept.clear();
    return EndJobOf(job);
  }
  if (event.no_op || job.plan_only) return EndJobOf(job);
  for (size_t u = 0; u < result.kept.size(); ++u) {
    if (result.kept[u] < result.lengths[u]) job.shrinking.push_back(static_cast<uint32_t>(u));
  }
  if (job.cancelled || job.shrinking.empty()) return Conclude(lease, job);
  QueueWave(lease, job);
}

void Core::State::CancelEvict(Job& job) {
  if (job.cancelled || job.stage == JobStage::kEnding) return;
  job.cancelled = true;
  if (job.stage != JobStage::kShort) return Emit(CancelJob{job.id});
  Lease& lease = leases.at(job.lease);
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
  job.result.version = sequence.version;
  if (job.result.outcome.ok()) {
    sequence.plan = job.plan;
    if (job.request_id != 0) sequence.last = {job.request_id, job.request_hash, job.result};
  } else {
    lease.plans.Free(job.plan);
    job.result.plan = {};
  }
  DeliverEvict(job);
  if (sequence.release) {
    const PendingRelease pending = *sequence.release;
    const ReleaseSequenceReply reply = Release(lease, sequence);
    RememberRelease(lease, pending.request_id, pending.request_hash, reply);
    if (pending.call != 0) Answer(pending.call, reply);
    ServeShortJobs(lease);
  }
  Reap(lease);
}

void Core::State::DeliverEvict(const Job& job) {
  if (job.call == 0) return;
  EvictCall& call = evict_calls.at(job.call);
  call.results[job.item] = job.result;
  if (--call.running > 0) return;
  EvictReply reply{leases.at(job.lease).tenant, std::move(call.results)};
  evict_calls.erase(job.call);
  Answer(job.call, std::move(reply));
}

}  // namespace kvsteward::core
