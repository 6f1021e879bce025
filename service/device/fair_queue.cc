#include "service/device/fair_queue.h"

namespace kvsteward::device {
namespace {

// The entry behind `last`, and the first one behind the end. REQUIRES: `map` is not empty.
template <class Map>
typename Map::iterator After(Map& map, const typename Map::key_type& last) {
  const auto next = map.upper_bound(last);
  return next == map.end() ? map.begin() : next;
}

}  // namespace

void FairQueue::Add(const std::string& tenant, core::LeaseId lease, core::JobId job) {
  tenants_[tenant].leases[lease].insert(job);
}

void FairQueue::Remove(const std::string& tenant, core::LeaseId lease, core::JobId job) {
  const auto found = tenants_.find(tenant);
  if (found == tenants_.end()) return;
  auto& leases = found->second.leases;
  const auto jobs = leases.find(lease);
  if (jobs == leases.end()) return;
  jobs->second.erase(job);
  if (jobs->second.empty()) leases.erase(jobs);
  if (leases.empty()) tenants_.erase(found);
}

std::optional<core::JobId> FairQueue::Next() {
  if (tenants_.empty()) return std::nullopt;
  auto& [name, tenant] = *After(tenants_, last_);
  last_ = name;
  const auto& [lease, jobs] = *After(tenant.leases, tenant.last);
  tenant.last = lease;
  return *jobs.begin();
}

}  // namespace kvsteward::device
