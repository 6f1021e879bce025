#include "kvsteward/client.h"

#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "client/cpp/lease.h"
#include "client/cpp/sequence_impl.h"

namespace kvsteward {

struct Client::Impl {
  std::shared_ptr<Lease> Current() const {
    MutexLock lock(mutex);
    return lease;
  }

  Mutex reattaching;  // one Reattach at a time; never taken inside `mutex`
  mutable Mutex mutex;
  std::shared_ptr<Lease> lease KVS_GUARDED_BY(mutex);
};

Client::Client(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::~Client() = default;

absl::StatusOr<std::unique_ptr<Client>> Client::Attach(const ClientOptions& options) {
  absl::StatusOr<std::shared_ptr<Lease>> lease = Lease::Attach(options);
  if (!lease.ok()) return lease.status();
  auto impl = std::make_unique<Impl>();
  {
    MutexLock lock(impl->mutex);
    impl->lease = *std::move(lease);
  }
  return std::unique_ptr<Client>(new Client(std::move(impl)));
}

absl::Status Client::Reattach() {
  MutexLock one_at_a_time(impl_->reattaching);
  const std::shared_ptr<Lease> old = impl_->Current();
  old->AwaitHangUp(std::chrono::milliseconds(0));
  if (old->Alive().ok()) return absl::OkStatus();
  absl::StatusOr<std::shared_ptr<Lease>> lease = Lease::Attach(old->options());
  if (!lease.ok()) return lease.status();
  old->Replace();
  MutexLock lock(impl_->mutex);
  impl_->lease = *std::move(lease);
  return absl::OkStatus();
}

absl::StatusOr<Sequence> Client::CreateSequence(uint64_t id, uint32_t max_tokens,
                                                const std::optional<InitialResidents>& residents) {
  std::shared_ptr<Lease> lease = impl_->Current();
  v1::CreateSequenceRequest request;
  request.set_sequence(id);
  request.set_max_tokens(max_tokens);
  if (residents) {
    v1::Residents& initial = *request.mutable_residents();
    initial.set_seen_tokens(residents->seen_tokens);
    initial.mutable_lengths()->Assign(residents->lengths.begin(), residents->lengths.end());
    initial.set_positions(residents->positions.data(), residents->positions.size() * sizeof(int32_t));
  }
  v1::CreateSequenceResponse response;
  absl::Status status = lease->Call(&v1::Steward::Stub::CreateSequence, std::move(request), &response);
  if (!status.ok()) return status;

  auto impl = std::make_unique<Sequence::Impl>();  // from here on an error releases the sequence
  impl->lease = lease;
  impl->id = id;
  impl->max_tokens = max_tokens;
  impl->version = response.version();
  if (response.table_chunk() >= response.table_chunks()) {
    return absl::InternalError(absl::StrCat("the sidecar put the table of sequence ", id, " into chunk ",
                                            response.table_chunk(), " of ", response.table_chunks()));
  }
  if (status = lease->AwaitMemory(response.extents(), response.table_chunks()); !status.ok()) return status;
  absl::StatusOr<SequenceTable> table = SequenceTable::Open(lease->memory().TableChunk(response.table_chunk()),
                                                            response.table_offset(), lease->options().geometry.units());
  if (!table.ok()) return table.status();
  impl->table = *table;
  impl->written = residents ? residents->seen_tokens : 0;
  impl->reserved = impl->written;
  return Sequence(std::move(impl));
}

absl::StatusOr<std::vector<absl::Status>> Client::Reserve(std::span<Sequence* const> sequences,
                                                          std::span<const uint32_t> total_tokens) {
  if (sequences.size() != total_tokens.size()) {
    return absl::InvalidArgumentError(absl::StrCat("total_tokens has ", total_tokens.size(), " entries for ",
                                                   sequences.size(), " sequences: give one each"));
  }
  const std::shared_ptr<Lease> lease = impl_->Current();
  std::vector<absl::Status> statuses;
  std::vector<Sequence::Impl*> asked;
  std::vector<uint32_t> totals;
  std::vector<size_t> places;
  for (size_t i = 0; i < sequences.size(); ++i) {
    Sequence::Impl& sequence = *sequences[i]->impl_;
    statuses.push_back(sequence.Alive());
    if (sequence.lease == lease && !sequence.released) {
      asked.push_back(&sequence);
      totals.push_back(total_tokens[i]);
      places.push_back(i);
    } else if (statuses.back().ok()) {
      statuses.back() = absl::InvalidArgumentError(absl::StrCat("sequence ", sequence.id, " is another client's"));
    }
  }
  if (asked.empty()) return statuses;
  absl::StatusOr<std::vector<absl::Status>> answers = Sequence::Impl::Reserve(*lease, asked, totals);
  if (!answers.ok()) return answers.status();
  for (size_t i = 0; i < places.size(); ++i) statuses[places[i]] = std::move((*answers)[i]);
  return statuses;
}

std::byte* Client::WindowSlot(uint32_t slot) const {
  const std::shared_ptr<Lease> lease = impl_->Current();
  if (slot >= lease->options().window_slots) return nullptr;
  return lease->statistics().data() + KVS_WINDOWS_OFFSET + slot * lease->attached().window_slot_bytes();
}

std::span<std::byte> Client::InputArea() const {
  const std::shared_ptr<Lease> lease = impl_->Current();
  if (lease->options().input_bytes == 0) return {};
  return lease->statistics().subspan(lease->attached().inputs_offset(), lease->options().input_bytes);
}

uint32_t* Client::ReadyWord(uint32_t slot) const {
  return slot < KVS_WORDS ? kvs_ready_word(impl_->Current()->statistics().data(), slot) : nullptr;
}

uint32_t* Client::DoneWord(uint32_t slot) const {
  return slot < KVS_WORDS ? kvs_done_word(impl_->Current()->statistics().data(), slot) : nullptr;
}

uint64_t Client::window_slot_bytes() const { return impl_->Current()->attached().window_slot_bytes(); }
uint64_t Client::block_bytes() const { return impl_->Current()->attached().block_bytes(); }
std::string Client::lease_name() const { return impl_->Current()->attached().lease_name(); }
std::string Client::device() const { return impl_->Current()->attached().device_uuid(); }
std::string Client::backend() const { return impl_->Current()->attached().backend(); }

}  // namespace kvsteward
