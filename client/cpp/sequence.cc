#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/run.h"
#include "client/cpp/sequence_impl.h"

namespace kvsteward {
namespace {

absl::Status Misanswered(const char* call, uint64_t sequence) {
  return absl::InternalError(absl::StrCat("the sidecar's reply to ", call, " does not answer for sequence ", sequence));
}

absl::StatusOr<v1::EvictRequest> ToRequest(const EvictOptions& options) {
  v1::EvictRequest request;
  v1::EvictSequence& item = *request.add_sequences();
  const int budgets =
      options.budget_tokens.has_value() + options.budget_ppm.has_value() + options.budget_bytes.has_value();
  if (budgets != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("EvictOptions has ", budgets, " budgets: set one of budget_tokens, budget_ppm and budget_bytes"));
  }
  if (options.budget_tokens) item.set_budget_tokens(*options.budget_tokens);
  if (options.budget_ppm) item.set_budget_ppm(*options.budget_ppm);
  if (options.budget_bytes) item.set_budget_bytes(*options.budget_bytes);
  if (options.if_version) item.set_if_version(*options.if_version);
  item.set_policy(options.policy);
  item.set_plan_only(options.plan_only);
  item.set_export_plan(options.export_plan);
  item.set_export_scores(options.export_scores);
  if (options.window_rows != 0) {
    v1::Window& window = *item.mutable_window();
    window.set_rows(options.window_rows);
    window.set_dtype(static_cast<v1::DType>(options.window_dtype));
    window.set_slot(options.window_slot);
    window.mutable_positions()->Assign(options.window_positions.begin(), options.window_positions.end());
  }
  return request;
}

Evicted ToEvicted(const v1::EvictedSequence& reply) {
  Evicted evicted;
  evicted.no_op = reply.no_op();
  evicted.budget_tokens = reply.budget_tokens();
  evicted.lengths.assign(reply.lengths().begin(), reply.lengths().end());
  evicted.kept.assign(reply.kept().begin(), reply.kept().end());
  evicted.blocks_freed = reply.blocks_freed();
  evicted.bytes_evicted = reply.bytes_evicted();
  evicted.bytes_returned = reply.bytes_returned();
  evicted.version = reply.version();
  evicted.queue_us = reply.queue_us();
  evicted.score_us = reply.score_us();
  evicted.select_us = reply.select_us();
  evicted.compact_us = reply.compact_us();
  return evicted;
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
  absl::StatusOr<v1::EvictRequest> request = ToRequest(options);
  if (!request.ok()) return request.status();
  v1::EvictSequence& item = *request->mutable_sequences(0);
  item.set_sequence(impl_->id);
  item.set_request_id(impl_->lease->NextRequestId());
  item.set_written_tokens(impl_->written);
  v1::EvictResponse response;
  absl::Status status = impl_->lease->Call(&v1::Steward::Stub::Evict, *std::move(request), &response);
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
  if (reply.plan_bytes() != 0) {
    absl::StatusOr<const kvs_plan*> plan = OpenPlan(impl_->lease->plans(), reply.plan_offset(), reply.plan_bytes(),
                                                    impl_->id, evicted.lengths, evicted.kept);
    if (!plan.ok()) return plan.status();
    evicted.plan = *plan;
  }
  return evicted;
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
