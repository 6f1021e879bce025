// Observe: rows of queries into a sequence's running scores. Whether they are the rows that follow, the device sees.
#include <utility>

#include "service/core/request.h"
#include "service/core/state.h"

namespace kvsteward::core {

void Core::State::On(const ObserveAsked& event) {
  Lease* lease = NamedServing(event.lease, event.call);
  if (lease == nullptr) return;
  ObserveReply reply{lease->tenant, {}};
  size_t running = 0;
  for (const ObserveItem& item : event.items) {
    Job job;
    job.call = event.call;
    job.item = reply.results.size();
    job.done = item.done;
    ObserveResult result;
    if (StartObserve(*lease, item, std::move(job), result)) {
      ++running;
    } else {
      GiveBack(*lease, item.sequence, item.done);
    }
    reply.results.push_back(std::move(result));
  }
  AwaitJobs(*lease, event.call, {std::move(reply), running});
}

bool Core::State::StartObserve(Lease& lease, const ObserveItem& item, Job&& job, ObserveResult& result) {
  result.policy = PolicyOf(lease, item.policy);
  Sequence* const sequence = NamedBy(lease, item, result);
  if (sequence == nullptr) return false;
  DropPlan(lease, *sequence);
  result.observed_tokens = sequence->observed;
  result.outcome = TakeWritten(*sequence, item.written_tokens);
  if (result.outcome.ok()) result.outcome = CheckJobs(lease);
  if (!result.outcome.ok()) return false;
  job.request_id = item.request_id;
  job.request_hash = item.request_hash;
  job.observe = true;
  job.result.policy = result.policy;
  RunEvict ask;
  ask.observe = true;
  ask.spec = item.spec;
  StartJob(lease, *sequence, std::move(job), std::move(ask));
  return true;
}

}  // namespace kvsteward::core
