// Rows grow and shrink: the queue of calls that need memory, Reserve, Truncate.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/core/request.h"
#include "service/core/row.h"
#include "service/core/state.h"

namespace kvsteward::core {
namespace {

constexpr uint64_t kRetryAfterUs = 10'000;  // the order of creating an extent

uint32_t BlocksAt(const Unit& unit, int32_t tokens) {
  return BlocksFor(static_cast<uint64_t>(ResidentsAt(unit, tokens)));
}

}  // namespace

void Core::State::On(const ReserveAsked& event) {
  Lease* lease = NamedServing(event.lease, event.call);
  if (lease != nullptr) Enqueue(*lease, event.call, event);
}

void Core::State::Enqueue(Lease& lease, CallId call, std::variant<CreateSequenceAsked, ReserveAsked> asked) {
  if (lease.queue.size() >= kMostQueuedCalls) {
    return Refuse(call, Outcome{Code::kResourceExhausted,
                                absl::StrCat("the lease has ", lease.queue.size(),
                                             " calls waiting for memory, the most it may have; retry"),
                                Shortage{0, 0, 0, kRetryAfterUs}});
  }
  lease.queue.push_back({call, std::move(asked), false, {}});
  Park(call, {CallKind::kQueued, lease.id, 0});
  ServeQueue(lease);
}

void Core::State::ServeQueue(Lease& lease) {
  while (!lease.queue.empty() && !lease.growth) {
    QueuedCall& head = lease.queue.front();
    const bool served =
        std::holds_alternative<ReserveAsked>(head.asked) ? ServeReserve(lease, head) : Create(lease, head);
    lease.growth_failure.reset();
    if (served) lease.queue.pop_front();
  }
}

bool Core::State::ServeReserve(Lease& lease, QueuedCall& queued) {
  const auto& event = std::get<ReserveAsked>(queued.asked);
  while (queued.results.size() < event.items.size()) {
    std::optional<ReserveResult> result = Reserve(lease, event.call, event.items[queued.results.size()]);
    if (!result) return false;
    lease.growth_failure.reset();  // that item has heard of it
    queued.results.push_back(std::move(*result));
  }
  Answer(event.call, ReserveReply{lease.extents, std::move(queued.results)});
  return true;
}

std::optional<ReserveResult> Core::State::Reserve(Lease& lease, CallId call, const ReserveItem& item) {
  ReserveResult result;
  result.sequence = item.sequence;
  const auto refuse = [&](Code code, std::string message) {
    result.outcome = {code, std::move(message), {}};
    return result;
  };
  const auto found = lease.sequences.find(item.sequence);
  if (found == lease.sequences.end()) {
    return refuse(Code::kNotFound, absl::StrCat("sequence ", item.sequence, " is unknown; create it first"));
  }
  Sequence& sequence = found->second;
  result.reserved_tokens = sequence.reserved;
  result.version = sequence.version;
  if (Outcome repeated; const ReserveResult* past = Repeated<ReserveResult>(sequence, item, repeated)) {
    return *past;
  } else if (!repeated.ok()) {
    result.outcome = std::move(repeated);
    return result;
  }
  if (Outcome outcome = CheckIdle(sequence); !outcome.ok()) {
    result.outcome = std::move(outcome);
    return result;
  }
  DropPlan(lease, sequence);
  if (Outcome outcome = TakeWritten(sequence, item.written_tokens); !outcome.ok()) {
    result.outcome = std::move(outcome);
    return result;
  }
  if (item.total_tokens < 0 || item.total_tokens > sequence.max_tokens) {
    return refuse(Code::kInvalidArgument,
                  absl::StrCat("total_tokens is ", item.total_tokens, "; it must be 0 to the sequence's max_tokens, ",
                               sequence.max_tokens));
  }
  if (item.total_tokens > sequence.reserved) {
    Need need;
    for (const Unit& unit : sequence.units) {
      const uint32_t blocks = BlocksAt(unit, item.total_tokens);
      need.blocks += blocks - BlocksAt(unit, sequence.reserved);
      need.longest_row = std::max(need.longest_row, blocks);
    }
    switch (Provide(lease, call, need, result.outcome)) {
      case Supply::kGrowing:
        return std::nullopt;
      case Supply::kRefused:
        return result;
      case Supply::kReady:
        break;
    }
    std::vector<AppendToRow> rows = ExtendRows(lease, sequence, item.total_tokens);
    if (!rows.empty()) Emit(AppendRows{lease.id, sequence.table, std::move(rows)});
  }
  result.reserved_tokens = sequence.reserved;
  if (item.request_id != 0) sequence.last = {item.request_id, item.request_hash, result};
  return result;
}

std::vector<AppendToRow> Core::State::ExtendRows(Lease& lease, Sequence& sequence, int32_t tokens) {
  std::vector<AppendToRow> appended;
  uint64_t taken = 0;
  for (size_t u = 0; u < sequence.units.size(); ++u) {
    Unit& unit = sequence.units[u];
    const uint64_t have = CountBlocks(unit.row);
    const uint64_t more = BlocksAt(unit, tokens) - have;
    if (more == 0) continue;
    AppendToRow& append = appended.emplace_back();
    append.unit = static_cast<uint32_t>(u);
    append.from = static_cast<uint32_t>(have);
    append.blocks = lease.blocks.Take(more);
    for (const Run& run : append.blocks) AppendRun(unit.row, run);
    taken += more;
  }
  sequence.reserved = tokens;
  sequence.blocks += taken;
  arena.Use(lease.account, taken * lease.shape.block_bytes);
  CountLongestRow(lease, sequence);
  return appended;
}

uint64_t Core::State::ShortenRows(Lease& lease, Sequence& sequence, int32_t tokens) {
  uint64_t freed = 0;
  std::vector<RowEnd> ends;
  for (size_t u = 0; u < sequence.units.size(); ++u) {
    Unit& unit = sequence.units[u];
    const uint32_t keep = BlocksAt(unit, tokens);
    const Row cut = CutRow(unit.row, keep);
    for (const Run& run : cut) {
      lease.blocks.Free(run);
      freed += run.count;
    }
    if (!cut.empty()) ends.push_back({static_cast<uint32_t>(u), keep});
  }
  if (!ends.empty()) Emit(TrimRows{lease.id, sequence.table, std::move(ends)});
  sequence.reserved = tokens;
  sequence.blocks -= freed;
  arena.Unuse(lease.account, freed * lease.shape.block_bytes);
  CountLongestRow(lease, sequence);
  return freed;
}

void Core::State::On(const TruncateAsked& event) {
  Lease* lease = NamedLive(event.lease, event.call);
  if (lease == nullptr) return;
  const auto found = lease->sequences.find(event.sequence);
  if (found == lease->sequences.end()) {
    return Refuse(event.call, Code::kNotFound,
                  absl::StrCat("sequence ", event.sequence, " is unknown; create it first"));
  }
  Sequence& sequence = found->second;
  Outcome repeated;
  if (const auto* past = Repeated<TruncateReply>(sequence, event, repeated)) return Answer(event.call, *past);
  if (!repeated.ok()) return Refuse(event.call, std::move(repeated));
  if (Outcome outcome = CheckIdle(sequence); !outcome.ok()) return Refuse(event.call, std::move(outcome));
  DropPlan(*lease, sequence);
  // Tokens above what was last said to be written have been written since: a worker speculates, then keeps some.
  if (event.tokens < 0 || event.tokens > sequence.reserved) {
    return Refuse(
        event.call, Code::kInvalidArgument,
        absl::StrCat("tokens is ", event.tokens, "; it must be 0 to the tokens reserved, ", sequence.reserved));
  }
  int32_t settled = 0;
  for (const Unit& unit : sequence.units) settled = std::max(settled, unit.base);
  if (event.tokens < settled) {
    return Refuse(event.call, Code::kFailedPrecondition,
                  absl::StrCat("tokens is ", event.tokens, " but tokens below ", settled,
                               " went through an eviction or an import; release the sequence instead"));
  }
  if (event.tokens < sequence.reserved) {
    ++sequence.version;
    for (Unit& unit : sequence.units) {
      unit.normed = std::min(unit.normed, ResidentsAt(unit, event.tokens));
      unit.scored = std::min(unit.scored, ResidentsAt(unit, event.tokens));
    }
    sequence.observed = std::min(sequence.observed, event.tokens);
    if (sequence.observed == 0) sequence.accumulated = nullptr;
    ShortenRows(*lease, sequence, event.tokens);
  }
  sequence.written = event.tokens;
  const TruncateReply reply{sequence.written, sequence.reserved, sequence.version};
  if (event.request_id != 0) sequence.last = {event.request_id, event.request_hash, reply};
  Answer(event.call, reply);
  ServeShortJobs(*lease);
}

}  // namespace kvsteward::core
