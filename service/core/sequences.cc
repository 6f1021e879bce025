// Sequences: created, with or without residents, and released.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/core/row.h"
#include "service/core/state.h"

namespace kvsteward::core {
namespace {

constexpr int32_t kMostTokens = 1 << 30;
constexpr size_t kRememberedReleases = 64;

Outcome Invalid(std::string message) { return {Code::kInvalidArgument, std::move(message), {}}; }

// Whether residents can be those of a sequence of so many units and tokens.
Outcome CheckResidents(const Residents& residents, int32_t units, int32_t max_tokens) {
  if (residents.seen < 0 || residents.seen > max_tokens) {
    return Invalid(
        absl::StrCat("residents.seen_tokens is ", residents.seen, "; it must be 0 to max_tokens, ", max_tokens));
  }
  if (residents.lengths.size() != static_cast<size_t>(units)) {
    return Invalid(absl::StrCat("residents.lengths has ", residents.lengths.size(), " entries; the geometry has ",
                                units, " units"));
  }
  uint64_t sum = 0;
  for (size_t u = 0; u < residents.lengths.size(); ++u) {
    const int32_t length = residents.lengths[u];
    if (length < 0 || length > residents.seen) {
      return Invalid(
          absl::StrCat("residents.lengths[", u, "] is ", length, "; it must be 0 to seen_tokens, ", residents.seen));
    }
    sum += static_cast<uint64_t>(length);
  }
  const uint64_t given = residents.positions ? residents.positions->size() : 0;
  if (given != sum) {
    return Invalid(absl::StrCat("residents.positions has ", given, " entries; the lengths add up to ", sum));
  }
  size_t at = 0;
  for (size_t u = 0; u < residents.lengths.size(); ++u) {
    int32_t before = -1;
    for (int32_t i = 0; i < residents.lengths[u]; ++i, ++at) {
      const int32_t position = (*residents.positions)[at];
      if (position <= before || position >= residents.seen) {
        return Invalid(absl::StrCat("residents.positions of unit ", u, " is ", position, " at index ", i,
                                    "; positions must ascend from 0 and stay below seen_tokens, ", residents.seen));
      }
      before = position;
    }
  }
  return {};
}

}  // namespace

void Core::State::On(const CreateSequenceAsked& event) {
  Lease* lease = NamedServing(event.lease, event.call);
  if (lease != nullptr) Enqueue(*lease, event.call, event);
}

bool Core::State::Create(Lease& lease, QueuedCall& queued) {
  const auto& event = std::get<CreateSequenceAsked>(queued.asked);
  const auto refuse = [&](Code code, std::string message) {
    Refuse(event.call, code, std::move(message));
    return true;
  };
  if (event.sequence == 0) return refuse(Code::kInvalidArgument, "sequence is 0; use another id");
  if (event.max_tokens < 1 || event.max_tokens > kMostTokens) {
    return refuse(Code::kInvalidArgument,
                  absl::StrCat("max_tokens is ", event.max_tokens, "; it must be 1 to ", kMostTokens));
  }
  if (const auto known = lease.sequences.find(event.sequence); known != lease.sequences.end()) {
    if (known->second.create_hash != event.request_hash) {
      return refuse(Code::kInvalidArgument,
                    absl::StrCat("sequence ", event.sequence, " exists and was created otherwise; use another id"));
    }
    if (known->second.release) {
      return refuse(Code::kFailedPrecondition,
                    absl::StrCat("sequence ", event.sequence, " is being released; wait for that reply"));
    }
    Answer(event.call, known->second.created);
    return true;
  }
  if (lease.sequences.size() >= config.max_sequences_per_lease) {
    return refuse(Code::kResourceExhausted, absl::StrCat("the lease has ", lease.sequences.size(),
                                                         " sequences, the most it may have; release one"));
  }
  if (event.residents && !queued.checked) {
    Outcome outcome = CheckResidents(*event.residents, lease.shape.units, event.max_tokens);
    if (!outcome.ok()) {
      Refuse(event.call, std::move(outcome));
      return true;
    }
    queued.checked = true;
  }

  Sequence sequence;
  sequence.id = event.sequence;
  sequence.max_tokens = event.max_tokens;
  sequence.create_hash = event.request_hash;
  sequence.units.resize(static_cast<size_t>(lease.shape.units));
  sequence.table.row_capacity = BlocksFor(static_cast<uint64_t>(event.max_tokens));
  Need need;
  need.table_places = TableBytes(lease.shape.units, sequence.table.row_capacity) / kPlaceBytes;
  if (event.residents) {
    sequence.written = event.residents->seen;
    for (size_t u = 0; u < sequence.units.size(); ++u) {
      Unit& unit = sequence.units[u];
      unit.kept = event.residents->lengths[u];
      unit.base = event.residents->seen;
      const uint32_t blocks = BlocksFor(static_cast<uint64_t>(unit.kept));
      need.blocks += blocks;
      need.longest_row = std::max(need.longest_row, blocks);
    }
  }
  Outcome why;
  switch (Provide(lease, event.call, need, why)) {
    case Supply::kGrowing:
      return false;
    case Supply::kRefused:
      Refuse(event.call, std::move(why));
      return true;
    case Supply::kReady:
      break;
  }

  sequence.table_run = *lease.tables.TakeOne(need.table_places);
  const auto next = std::upper_bound(lease.chunk_starts.begin(), lease.chunk_starts.end(), sequence.table_run.first);
  sequence.table.chunk = static_cast<uint32_t>(next - lease.chunk_starts.begin() - 1);
  sequence.table.offset = uint64_t{sequence.table_run.first - lease.chunk_starts[sequence.table.chunk]} * kPlaceBytes;
  sequence.created = {sequence.table, lease.extents, static_cast<uint32_t>(lease.chunk_starts.size()),
                      sequence.version};
  ++lease.longest_rows[0];
  Sequence& kept = lease.sequences.emplace(event.sequence, std::move(sequence)).first->second;
  ExtendRows(lease, kept, kept.written);
  Emit(InitTable{lease.id, kept.table, kept.units});
  if (event.residents && event.residents->positions && !event.residents->positions->empty()) {
    Emit(StorePositions{lease.id, kept.units, event.residents->positions});
  }
  Answer(event.call, kept.created);
  return true;
}

void Core::State::On(const ReleaseSequenceAsked& event) {
  Lease* lease = NamedLive(event.lease, event.call);
  if (lease == nullptr) return;
  for (const ReleasedRequest& past : lease->released) {
    if (event.request_id == 0 || past.id != event.request_id) continue;
    if (past.hash == event.request_hash) return Answer(event.call, past.reply);
    return Refuse(event.call, Code::kInvalidArgument,
                  absl::StrCat("request_id ", event.request_id, " was used for another release; use a new one"));
  }
  const auto found = lease->sequences.find(event.sequence);
  if (found == lease->sequences.end()) {
    return Refuse(event.call, Code::kNotFound,
                  absl::StrCat("sequence ", event.sequence, " is unknown; create it first"));
  }
  Sequence& sequence = found->second;
  if (sequence.release) {
    return Refuse(event.call, Code::kFailedPrecondition,
                  absl::StrCat("sequence ", event.sequence, " is being released; wait for that reply"));
  }
  if (sequence.job != 0) {
    sequence.release = {event.call, event.request_id, event.request_hash};
    Park(event.call, {CallKind::kRelease, lease->id, event.sequence});
    return StopJob(jobs.at(sequence.job));
  }
  const ReleaseSequenceReply reply = Release(*lease, sequence);
  RememberRelease(*lease, event.request_id, event.request_hash, reply);
  Answer(event.call, reply);
  ServeShortJobs(*lease);
}

ReleaseSequenceReply Core::State::Release(Lease& lease, Sequence& sequence) {
  const ReleaseSequenceReply reply{sequence.blocks};
  std::vector<Row> rows;
  rows.reserve(sequence.units.size());
  for (Unit& unit : sequence.units) rows.push_back(std::move(unit.row));
  lease.blocks.Free(rows);
  arena.Unuse(lease.account, sequence.blocks * lease.shape.block_bytes);
  lease.tables.Free(sequence.table_run);
  lease.plans.Free(sequence.plan);
  const auto longest = lease.longest_rows.find(sequence.longest_row);
  if (--longest->second == 0) lease.longest_rows.erase(longest);
  lease.sequences.erase(sequence.id);
  return reply;
}

void Core::State::RememberRelease(Lease& lease, uint64_t request_id, uint64_t request_hash,
                                  const ReleaseSequenceReply& reply) {
  if (request_id == 0) return;
  lease.released.push_back({request_id, request_hash, reply});
  if (lease.released.size() > kRememberedReleases) lease.released.pop_front();
}

void Core::State::DropPlan(Lease& lease, Sequence& sequence) {
  lease.plans.Free(std::exchange(sequence.plan, Run{}));
  if (auto* evicted = std::get_if<EvictResult>(&sequence.last.result)) evicted->plan = {};
}

void Core::State::CountLongestRow(Lease& lease, Sequence& sequence) {
  uint64_t longest = 0;
  for (const Unit& unit : sequence.units) longest = std::max(longest, CountBlocks(unit.row));
  const auto before = lease.longest_rows.find(sequence.longest_row);
  if (--before->second == 0) lease.longest_rows.erase(before);
  sequence.longest_row = static_cast<uint32_t>(longest);
  ++lease.longest_rows[sequence.longest_row];
}

}  // namespace kvsteward::core
