// Whose turn it is on the device: round robin over tenants, and within a tenant over its leases; a lease's oldest job
// goes first. Thread-compatible.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>

#include "service/core/types.h"

namespace kvsteward::device {

class FairQueue {
 public:
  // The job has something to run, until Remove.
  void Add(const std::string& tenant, core::LeaseId lease, core::JobId job);
  void Remove(const std::string& tenant, core::LeaseId lease, core::JobId job);

  // Whose item runs next, if any has one. The job stays in the queue; its tenant and lease come last from now on.
  std::optional<core::JobId> Next();
  bool empty() const { return tenants_.empty(); }

 private:
  // Invariant: no set and no map in here is empty.
  struct Tenant {
    std::map<core::LeaseId, std::set<core::JobId>> leases;
    core::LeaseId last = 0;  // the lease that was served last
  };
  std::map<std::string, Tenant> tenants_;
  std::string last_;  // the tenant that was served last
};

}  // namespace kvsteward::device
