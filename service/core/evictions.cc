// Evict: whether an item has anything to do, and its job.
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvsteward/shm.h"
#include "service/core/request.h"
#include "service/core/state.h"

namespace kvsteward::core {

void Core::State::On(const EvictAsked& event) {
  Lease* lease = NamedServing(event.lease, event.call);
  if (lease == nullptr) return;
  EvictReply reply{lease->tenant, {}};
  size_t running = 0;
  for (const EvictItem& item : event.items) {
    Job job;
    job.call = event.call;
    job.item = reply.results.size();
    job.done = item.done;
    EvictResult result;
    if (StartEvict(*lease, item, std::move(job), result)) {
      ++running;
    } else {
      GiveBack(*lease, item.sequence, item.done);
    }
    reply.results.push_back(std::move(result));
  }
  AwaitJobs(*lease, event.call, {std::move(reply), running});
}

bool Core::State::StartEvict(Lease& lease, const EvictItem& item, Job&& job, EvictResult& result) {
  result.policy = PolicyOf(lease, item.policy);
  Sequence* const named = NamedBy(lease, item, result);
  if (named == nullptr) return false;
  Sequence& sequence = *named;
  DropPlan(lease, sequence);
  result.outcome = TakeWritten(sequence, item.written_tokens);
  if (!result.outcome.ok()) return false;
  if (item.if_version && *item.if_version != sequence.version) {
    result.outcome = {Code::kAborted,
                      absl::StrCat("if_version is ", *item.if_version, " but the sequence's version is ",
                                   sequence.version, "; decide anew"),
                      {}};
    return false;
  }
  if (item.lazy && !Due(lease, sequence, item, result)) {
    if (item.request_id != 0) Remember(sequence, item.request_id, item.request_hash, result);
    return false;
  }
  result.outcome = CheckJobs(lease);
  if (!result.outcome.ok()) return false;

  job.result.sequence = item.sequence;
  job.result.policy = result.policy;
  for (const Unit& unit : sequence.units) job.result.lengths.push_back(ResidentsAt(unit, sequence.written));
  if (item.export_plan) {
    const uint64_t bytes = PlanBytes(job.result.lengths, item.export_scores);
    const std::optional<Run> place = lease.plans.TakeOne(bytes / kPlaceBytes);
    if (!place) {
      const uint64_t longest = lease.plans.longest() * kPlaceBytes;
      result.outcome =
          lease.plan_places == 0
              ? Outcome{Code::kFailedPrecondition, "export_plan needs a plan region; ask for plan_bytes in Attach", {}}
              : Outcome{Code::kResourceExhausted,
                        absl::StrCat("the plan needs ", bytes, " bytes and ", longest,
                                     " are free in the plan region; ask for more plan_bytes in Attach"),
                        Shortage{bytes, longest, 0, 0}};
      return false;
    }
    job.plan = *place;
    job.result.plan = {place->first * kPlaceBytes, bytes};
  }
  job.request_id = item.request_id;
  job.request_hash = item.request_hash;
  job.plan_only = item.plan_only;
  RunEvict ask;
  ask.plan_only = item.plan_only;
  ask.export_plan = item.export_plan;
  ask.export_scores = item.export_scores;
  ask.plan = job.result.plan;
  ask.spec = item.spec;
  StartJob(lease, sequence, std::move(job), std::move(ask));
  return true;
}

bool Core::State::Due(const Lease& lease, const Sequence& sequence, const EvictItem& item, EvictResult& result) const {
  const int32_t budget = budget_tokens(*lease.spec, *item.spec, sequence.written);
  if (budget < 1) return true;  // the device says what is wrong with it
  // A plan divides its budget over the units as it sees fit; it says nothing of another budget.
  const bool same = budget_tokens(*lease.spec, *item.spec, sequence.planned_at) == sequence.planned_budget;
  std::vector<int32_t> residents;
  int64_t all = 0;
  bool due = false;
  for (const Unit& unit : sequence.units) {
    residents.push_back(ResidentsAt(unit, sequence.written));
    all += residents.back();
    const int32_t may_keep = unit.planned < 0 || !same ? budget : unit.planned;
    due = due || residents.back() - static_cast<int32_t>(KVS_BLOCK_TOKENS) >= may_keep;
  }
  if (due && all > static_cast<int64_t>(residents.size()) * budget) return true;  // else the plan would be a no-op
  result.no_op = true;
  result.budget_tokens = budget;
  result.kept = residents;
  result.lengths = std::move(residents);
  return false;
}

}  // namespace kvsteward::core
