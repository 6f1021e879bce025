#include "service/rpc/encode.h"

#include "kvsteward/engine/policy.h"

namespace kvsteward::rpc {
namespace {

constexpr size_t kMaxMessage = 1024;  // bytes; all trailers of a call must stay below 8 KiB

// Cut between characters, so that what is left is UTF-8 if the text was.
std::string Cut(const std::string& text) {
  if (text.size() <= kMaxMessage) return text;
  size_t end = kMaxMessage;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return text.substr(0, end) + "...";
}

void Encode(const core::Shortage& shortage, v1::Shortage* out) {
  out->set_needed_bytes(shortage.needed_bytes);
  out->set_free_bytes(shortage.free_bytes);
  out->set_reclaimable_bytes(shortage.reclaimable_bytes);
  out->set_retry_after_us(shortage.retry_after_us);
}

bool HasShortage(const core::Outcome& outcome) {
  return outcome.code == core::Code::kResourceExhausted && outcome.shortage != core::Shortage{};
}

void Encode(const core::Outcome& outcome, v1::Outcome* out) {
  out->set_code(static_cast<uint32_t>(outcome.code));
  out->set_message(Cut(outcome.message));
  if (HasShortage(outcome)) Encode(outcome.shortage, out->mutable_shortage());
}

void Encode(const core::TenantStatus& tenant, v1::TenantStatus* out) {
  out->set_name(tenant.name);
  out->set_hard_limit_bytes(tenant.hard_limit_bytes);
  out->set_charged_bytes(tenant.charged_bytes);
  out->set_used_bytes(tenant.used_bytes);
  out->set_policy(tenant.policy->name);
  out->set_policy_yaml(engine::PolicyToYaml(*tenant.policy));
}

v1::LeaseStatus::State ToState(core::LeaseState state) {
  switch (state) {
    case core::LeaseState::kAttaching:
      return v1::LeaseStatus::STATE_ATTACHING;
    case core::LeaseState::kAttached:
      return v1::LeaseStatus::STATE_ATTACHED;
    case core::LeaseState::kLive:
      return v1::LeaseStatus::STATE_LIVE;
    case core::LeaseState::kEnding:
      return v1::LeaseStatus::STATE_ENDING;
    case core::LeaseState::kQuarantined:
      return v1::LeaseStatus::STATE_QUARANTINED;
  }
  return v1::LeaseStatus::STATE_UNSPECIFIED;
}

}  // namespace

std::string LeaseName(core::LeaseId lease) { return "lease-" + std::to_string(lease); }

grpc::Status ToStatus(const core::Outcome& outcome) {
  if (outcome.ok()) return grpc::Status::OK;
  std::string details;
  if (HasShortage(outcome)) {
    v1::Shortage shortage;
    Encode(outcome.shortage, &shortage);
    details = shortage.SerializeAsString();
  }
  return grpc::Status(static_cast<grpc::StatusCode>(outcome.code), Cut(outcome.message), details);
}

grpc::Status ToStatus(const absl::Status& status) {
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), Cut(std::string(status.message())));
}

void Encode(const core::CreateSequenceReply& reply, v1::CreateSequenceResponse* response) {
  response->set_table_chunk(reply.table.chunk);
  response->set_table_offset(reply.table.offset);
  response->set_table_chunks(reply.table_chunks);
  response->set_extents(reply.extents);
  response->set_version(reply.version);
}

void Encode(const core::ReserveReply& reply, v1::ReserveResponse* response) {
  response->set_extents(reply.extents);
  for (const core::ReserveResult& result : reply.results) {
    v1::ReservedSequence* out = response->add_sequences();
    out->set_sequence(result.sequence);
    Encode(result.outcome, out->mutable_outcome());
    out->set_reserved_tokens(static_cast<uint32_t>(result.reserved_tokens));
    out->set_version(result.version);
  }
}

void Encode(const core::TruncateReply& reply, v1::TruncateResponse* response) {
  response->set_tokens(static_cast<uint32_t>(reply.tokens));
  response->set_reserved_tokens(static_cast<uint32_t>(reply.reserved_tokens));
  response->set_version(reply.version);
}

void Encode(const core::ObserveReply& reply, v1::ObserveResponse* response) {
  for (const core::ObserveResult& result : reply.results) {
    v1::ObservedSequence* out = response->add_sequences();
    out->set_sequence(result.sequence);
    Encode(result.outcome, out->mutable_outcome());
    out->set_observed_tokens(static_cast<uint32_t>(result.observed_tokens));
    out->set_version(result.version);
  }
}

void Encode(const core::EvictReply& reply, v1::EvictResponse* response) {
  for (const core::EvictResult& result : reply.results) {
    v1::EvictedSequence* out = response->add_sequences();
    out->set_sequence(result.sequence);
    Encode(result.outcome, out->mutable_outcome());
    out->set_no_op(result.no_op);
    out->set_budget_tokens(static_cast<uint32_t>(result.budget_tokens));
    for (const int32_t length : result.lengths) out->add_lengths(static_cast<uint32_t>(length));
    for (const int32_t kept : result.kept) out->add_kept(static_cast<uint32_t>(kept));
    out->set_units_compacted(result.units_compacted);
    out->set_blocks_freed(result.blocks_freed);
    out->set_bytes_evicted(result.bytes_evicted);
    out->set_bytes_returned(result.bytes_returned);
    out->set_version(result.version);
    out->set_plan_offset(result.plan.offset);
    out->set_plan_bytes(result.plan.bytes);
    out->set_queue_us(result.times.queue_us);
    out->set_score_us(result.times.score_us);
    out->set_select_us(result.times.select_us);
    out->set_compact_us(result.times.compact_us);
    out->set_unsplit_layers(static_cast<uint32_t>(result.unsplit_layers));
    out->set_planned_on_host(result.planned_on_host);
  }
}

void Encode(const core::ReleaseSequenceReply& reply, v1::ReleaseSequenceResponse* response) {
  response->set_blocks_freed(reply.blocks_freed);
}

void Encode(const core::StatusReply& reply, v1::GetStatusResponse* response) {
  response->set_epoch(reply.epoch);
  response->set_draining(reply.draining);
  v1::Ledger* ledger = response->mutable_ledger();
  ledger->set_arena_bytes(reply.ledger.arena);
  ledger->set_free_bytes(reply.ledger.free);
  ledger->set_used_bytes(reply.ledger.used);
  ledger->set_metadata_bytes(reply.ledger.metadata);
  ledger->set_reserved_bytes(reply.ledger.reserved);
  ledger->set_quarantined_bytes(reply.ledger.quarantined);
  for (const core::TenantStatus& tenant : reply.tenants) Encode(tenant, response->add_tenants());
  for (const core::LeaseStatus& lease : reply.leases) {
    v1::LeaseStatus* out = response->add_leases();
    out->set_name(LeaseName(lease.lease));
    out->set_tenant(lease.tenant);
    out->set_state(ToState(lease.state));
    out->set_extents(lease.extents);
    out->set_charged_bytes(lease.charged_bytes);
    out->set_used_bytes(lease.used_bytes);
    out->set_sequences(lease.sequences);
    out->set_running_evictions(lease.running_evictions);
  }
}

void Encode(const core::StatusReply& reply, v1::ListTenantsResponse* response) {
  for (const core::TenantStatus& tenant : reply.tenants) Encode(tenant, response->add_tenants());
}

}  // namespace kvsteward::rpc
