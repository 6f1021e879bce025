#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/run.h"
#include "client/cpp/requests.h"
#include "client/cpp/sequence_impl.h"

namespace kvsteward {
namespace {

absl::Status Misanswered(const char* call, uint64_t sequence) {
  return absl::InternalError(absl::StrCat("the sidecar's reply to ", call, " does not answer for sequence ", sequence));
}

}  // namespace

// ---- Sequence::Impl
// --------------------------------------------------------------------------------------------------

Sequence::Impl::~Impl() {
  if (released || !lease->Alive().ok()) return;
  v1::ReleaseSequenceRequest request;
  request.set_sequence(id);
  request.set_request_id(lease->NextRequestId());
  v1::ReleaseSequenceResponse response;
  (void)lease->Call(&v1::Steward::Stub::ReleaseSequence, std::move(request), &response);
}

absl::Status Sequence::Impl::Alive() const {
  if (released) return absl::FailedPreconditionError(absl::StrCat("sequence ", id, " was released"));
  return lease->Alive();
}

std::byte* Sequence::Impl::Key(uint32_t unit, uint32_t slot) const {
  if (unit >= table.units()) return nullptr;
  const SequenceTable::Row row = table.Current(unit);
  if (slot >= row.Residents(reserved)) return nullptr;
  std::byte* block = lease->memory().Block(row.blocks[slot / KVS_BLOCK_TOKENS]);
  const uint64_t token_bytes = lease->memory().layout().block_bytes / (2 * KVS_BLOCK_TOKENS);
  return block == nullptr ? nullptr : block + slot % KVS_BLOCK_TOKENS * token_bytes;
}

std::span<const uint32_t> Sequence::Impl::Row(uint32_t unit) const {
  if (unit >= table.units()) return {};
  const SequenceTable::Row row = table.Current(unit);
  return row.blocks.first(BlocksFor(row.Residents(reserved)));
}

void Sequence::Impl::Settle(uint64_t new_version) {
  if (new_version != version) reserved = written;
  version = new_version;
}

absl::StatusOr<std::vector<absl::Status>> Sequence::Impl::Reserve(Lease& lease, std::span<Impl* const> sequences,
                                                                  std::span<const uint32_t> total_tokens) {
  v1::ReserveRequest request;
  for (size_t i = 0; i < sequences.size(); ++i) {
    v1::ReserveSequence& item = *request.add_sequences();
    item.set_sequence(sequences[i]->id);
    item.set_request_id(lease.NextRequestId());
    item.set_total_tokens(total_tokens[i]);
    item.set_written_tokens(sequences[i]->written);
  }
  v1::ReserveResponse response;
  absl::Status status = lease.Call(&v1::Steward::Stub::Reserve, std::move(request), &response);
  if (!status.ok()) return status;
  if (static_cast<size_t>(response.sequences_size()) != sequences.size()) {
    return absl::InternalError(absl::StrCat("the sidecar's reply to Reserve has ", response.sequences_size(),
                                            " sequences where ", sequences.size(), " were named"));
  }
  if (status = lease.AwaitMemory(response.extents(), 0); !status.ok()) return status;
  std::vector<absl::Status> statuses;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const v1::ReservedSequence& reply = response.sequences(static_cast<int>(i));
    Impl& sequence = *sequences[i];
    if (reply.sequence() != sequence.id) return Misanswered("Reserve", sequence.id);
    if (reply.outcome().code() == 0) {
      sequence.reserved = std::clamp(reply.reserved_tokens(), sequence.written, sequence.max_tokens);
      sequence.version = reply.version();
    }
    statuses.push_back(ToStatus(reply.outcome()));
  }
  return statuses;
}

// ---- Sequence
// --------------------------------------------------------------------------------------------------------

Sequence::Sequence(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Sequence::~Sequence() = default;
Sequence::Sequence(Sequence&&) noexcept = default;
Sequence& Sequence::operator=(Sequence&&) noexcept = default;

uint64_t Sequence::id() const { return impl_->id; }
uint64_t Sequence::version() const { return impl_->version; }
uint32_t Sequence::written() const { return impl_->written; }
uint32_t Sequence::reserved() const { return impl_->reserved; }

absl::Status Sequence::Reserve(uint32_t total_tokens) {
  if (absl::Status status = impl_->Alive(); !status.ok()) return status;
  Impl* const self[] = {impl_.get()};
  absl::StatusOr<std::vector<absl::Status>> statuses = Impl::Reserve(*impl_->lease, self, {&total_tokens, 1});
  return statuses.ok() ? statuses->front() : statuses.status();
}

uint32_t Sequence::Residents(uint32_t unit) const {
  return unit < impl_->table.units() ? impl_->table.Current(unit).Residents(impl_->written) : 0;
}

std::byte* Sequence::Key(uint32_t unit, uint32_t slot) const { return impl_->Key(unit, slot); }

std::byte* Sequence::Value(uint32_t unit, uint32_t slot) const {
  std::byte* key = impl_->Key(unit, slot);
  return key == nullptr ? nullptr : key + impl_->lease->memory().layout().block_bytes / 2;
}

absl::Status Sequence::Write(std::byte* to, std::span<const std::byte> from) const {
  return impl_->lease->memory().Write({to, from});
}

std::span<const uint32_t> Sequence::Row(uint32_t unit) const { return impl_->Row(unit); }

std::byte* Sequence::Block(uint32_t block) const { return impl_->lease->memory().Block(block); }

absl::Status Sequence::Wrote(uint32_t tokens) {
  if (absl::Status status = impl_->Alive(); !status.ok()) return status;
  if (tokens < impl_->written || tokens > impl_->reserved) {
    return absl::InvalidArgumentError(absl::StrCat("tokens is ", tokens, " where ", impl_->written, " are written and ",
                                                   impl_->reserved,
                                                   " reserved: Reserve first, and Truncate to take tokens back"));
  }
  impl_->written = tokens;
  return absl::OkStatus();
}

absl::StatusOr<Evicted> Sequence::Evict(const EvictOptions& options) {
  if (absl::Status status = impl_->Alive(); !status.ok()) return status;
  v1::EvictRequest request;
  v1::EvictSequence& item = *request.add_sequences();
  item.set_sequence(impl_->id);
  item.set_request_id(impl_->lease->NextRequestId());
  item.set_written_tokens(impl_->written);
  absl::Status status = Fill(options, item);
  if (!status.ok()) return status;
  v1::EvictResponse response;
  status = impl_->lease->Call(&v1::Steward::Stub::Evict, std::move(request), &response);
  // Unless the call was refused whole, the eviction may go on, or may have moved some units: their rows have no room
  // left.
  if (!status.ok() && !absl::IsInvalidArgument(status)) impl_->reserved = impl_->written;
  if (!status.ok()) return status;
  if (response.sequences_size() != 1 || response.sequences(0).sequence() != impl_->id) {
    return Misanswered("Evict", impl_->id);
  }
  const v1::EvictedSequence& reply = response.sequences(0);
  impl_->Settle(reply.version());
  if (status = ToStatus(reply.outcome()); !status.ok()) return status;
  Evicted evicted = ToEvicted(reply);
  if (evicted.lengths.size() != impl_->table.units() || evicted.kept.size() != impl_->table.units()) {
    return Misanswered("Evict", impl_->id);
  }
  if (!options.plan_only && !evicted.no_op) impl_->planned_at = impl_->written;
  if (reply.plan_bytes() != 0) {
    absl::StatusOr<const kvs_plan*> plan = OpenPlan(impl_->lease->plans(), reply.plan_offset(), reply.plan_bytes(),
                                                    impl_->id, evicted.lengths, evicted.kept);
    if (!plan.ok()) return plan.status();
    evicted.plan = *plan;
  }
  return evicted;
}

bool Sequence::EvictionDue(uint32_t budget_tokens) const {
  // Every token joins all units, so they have all grown by as much since the last eviction.
  if (impl_->planned_at) return impl_->written >= uint64_t{*impl_->planned_at} + KVS_BLOCK_TOKENS;
  for (uint32_t unit = 0; unit < impl_->table.units(); ++unit) {
    if (Residents(unit) >= uint64_t{budget_tokens} + KVS_BLOCK_TOKENS) return true;
  }
  return false;
}

absl::StatusOr<uint32_t> Sequence::Observe(const ObserveOptions& options) {
  if (absl::Status status = impl_->Alive(); !status.ok()) return status;
  v1::ObserveRequest request;
  v1::ObserveSequence& item = *request.add_sequences();
  item.set_sequence(impl_->id);
  item.set_request_id(impl_->lease->NextRequestId());
  item.set_written_tokens(impl_->written);
  absl::Status status = Fill(options, item);
  if (!status.ok()) return status;
  v1::ObserveResponse response;
  status = impl_->lease->Call(&v1::Steward::Stub::Observe, std::move(request), &response);
  if (!status.ok()) return status;
  if (response.sequences_size() != 1 || response.sequences(0).sequence() != impl_->id) {
    return Misanswered("Observe", impl_->id);
  }
  const v1::ObservedSequence& reply = response.sequences(0);
  impl_->Settle(reply.version());
  if (status = ToStatus(reply.outcome()); !status.ok()) return status;
  return reply.observed_tokens();
}

absl::Status Sequence::Truncate(uint32_t tokens) {
  if (absl::Status status = impl_->Alive(); !status.ok()) return status;
  v1::TruncateRequest request;
  request.set_sequence(impl_->id);
  request.set_request_id(impl_->lease->NextRequestId());
  request.set_tokens(tokens);
  v1::TruncateResponse response;
  absl::Status status = impl_->lease->Call(&v1::Steward::Stub::Truncate, std::move(request), &response);
  if (!status.ok()) return status;
  impl_->written = std::min(response.tokens(), impl_->max_tokens);
  impl_->reserved = std::clamp(response.reserved_tokens(), impl_->written, impl_->max_tokens);
  impl_->version = response.version();
  if (impl_->planned_at) impl_->planned_at = std::min(*impl_->planned_at, impl_->written);
  return absl::OkStatus();
}

absl::Status Sequence::Release() {
  if (absl::Status status = impl_->Alive(); !status.ok()) return status;
  v1::ReleaseSequenceRequest request;
  request.set_sequence(impl_->id);
  request.set_request_id(impl_->lease->NextRequestId());
  v1::ReleaseSequenceResponse response;
  absl::Status status = impl_->lease->Call(&v1::Steward::Stub::ReleaseSequence, std::move(request), &response);
  if (!status.ok()) return status;
  impl_->released = true;
  impl_->table = SequenceTable();
  return absl::OkStatus();
}

}  // namespace kvsteward
