#include "service/core/arena.h"

#include <algorithm>
#include <utility>

namespace kvsteward::core {
namespace {

// What of an object the books call metadata and what extents.
uint64_t MetadataOf(const Object& object) {
  return object.kind == ObjectKind::kExtent ? object.private_bytes : object.bytes + object.private_bytes;
}
uint64_t ExtentBytesOf(const Object& object) { return object.kind == ObjectKind::kExtent ? object.bytes : 0; }

}  // namespace

Arena::Arena(const Config& config) {
  for (const TenantConfig& tenant : config.tenants) {
    if (!FindTenant(tenant.name)) {
      tenants_.push_back({tenant.name, tenant.hard_limit_bytes, 0, tenant.policy, tenant.policy});
    }
  }
  std::sort(tenants_.begin(), tenants_.end(), [](const Tenant& a, const Tenant& b) { return a.name < b.name; });
  ledger_.arena = config.arena_bytes;
  ledger_.free = config.arena_bytes;
}

std::optional<size_t> Arena::FindTenant(const std::string& name) const {
  for (size_t i = 0; i < tenants_.size(); ++i) {
    if (tenants_[i].name == name) return i;
  }
  return std::nullopt;
}

void Arena::SetPolicy(size_t tenant, PolicyRef policy) {
  tenants_[tenant].policy = policy != nullptr ? std::move(policy) : tenants_[tenant].configured;
}

uint64_t Arena::Room(const Account& account) const {
  const Tenant& tenant = tenants_[account.tenant];
  return std::min(ledger_.free, tenant.hard_limit - tenant.charged);
}

void Arena::Charge(Account& account, const Object& object) {
  const uint64_t metadata = MetadataOf(object);
  const uint64_t extents = ExtentBytesOf(object);
  account.metadata += metadata;
  account.extents += extents;
  tenants_[account.tenant].charged += metadata + extents;
  ledger_.free -= metadata + extents;
  ledger_.metadata += metadata;
  ledger_.reserved += extents;
}

void Arena::Refund(Account& account, const Object& object) {
  const uint64_t metadata = MetadataOf(object);
  const uint64_t extents = ExtentBytesOf(object);
  account.metadata -= metadata;
  account.extents -= extents;
  tenants_[account.tenant].charged -= metadata + extents;
  ledger_.free += metadata + extents;
  if (account.quarantined) {
    ledger_.quarantined -= metadata + extents;
  } else {
    ledger_.metadata -= metadata;
    ledger_.reserved -= extents;
  }
}

void Arena::Use(Account& account, uint64_t bytes) {
  account.used += bytes;
  if (account.quarantined) return;
  ledger_.reserved -= bytes;
  ledger_.used += bytes;
}

void Arena::Unuse(Account& account, uint64_t bytes) {
  account.used -= bytes;
  if (account.quarantined) return;
  ledger_.used -= bytes;
  ledger_.reserved += bytes;
}

void Arena::Quarantine(Account& account) {
  account.quarantined = true;
  ledger_.metadata -= account.metadata;
  ledger_.used -= account.used;
  ledger_.reserved -= account.extents - account.used;
  ledger_.quarantined += account.charged();
}

}  // namespace kvsteward::core
