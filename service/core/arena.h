// The arena's books: what of it is in which state, and who is charged for it. Holds numbers only; objects and blocks
// themselves belong to leases. Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "service/core/core.h"
#include "service/core/types.h"

namespace kvsteward::core {

// One lease's share. Changed by Arena alone.
struct Account {
  size_t tenant = 0;      // index into Arena::tenants()
  uint64_t metadata = 0;  // regions and private side arrays
  uint64_t extents = 0;   // exported bytes of extents
  uint64_t used = 0;      // of these, blocks of sequences
  bool quarantined = false;

  uint64_t charged() const { return metadata + extents; }
};

struct Tenant {
  std::string name;
  uint64_t hard_limit = 0;
  uint64_t charged = 0;
  PolicyRef configured;
  PolicyRef policy;  // of calls that name none
};

// Invariants: ledger().exact(); a tenant's charge is the sum of its accounts' and never above its hard limit.
class Arena {
 public:
  explicit Arena(const Config& config);

  std::optional<size_t> FindTenant(const std::string& name) const;
  const std::vector<Tenant>& tenants() const { return tenants_; }  // by name
  // Null: the configured one.
  void SetPolicy(size_t tenant, PolicyRef policy);
  const Ledger& ledger() const { return ledger_; }

  // Bytes that the account could still be charged.
  uint64_t Room(const Account& account) const;
  // REQUIRES: the object fits Room().
  void Charge(Account& account, const Object& object);
  void Refund(Account& account, const Object& object);
  // Blocks go to sequences or come back. REQUIRES: they are in the account's extents.
  void Use(Account& account, uint64_t bytes);
  void Unuse(Account& account, uint64_t bytes);
  // All that the account has is quarantined until it is given back. REQUIRES: it is not yet, nor charged afterwards.
  void Quarantine(Account& account);

 private:
  std::vector<Tenant> tenants_;
  Ledger ledger_;
};

}  // namespace kvsteward::core
