// The books recounted from what is there. Nothing here is used by the other files, so a mistake in them cannot hide.
#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/core/row.h"
#include "service/core/state.h"

namespace kvsteward::core {
namespace {

template <typename... Parts>
absl::Status Broken(const Parts&... parts) {
  return absl::InternalError(absl::StrCat(parts...));
}

// Whether the runs, all of one number space, cover exactly [0, count) without overlap.
absl::Status CheckCover(const std::string& what, std::vector<Run> runs, uint64_t count) {
  std::sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) { return a.first < b.first; });
  uint64_t end = 0;
  for (const Run& run : runs) {
    if (run.count == 0) continue;
    if (run.first < end) return Broken(what, " ", run.first, " is owned twice");
    if (run.first > end) return Broken(what, " ", end, " is owned by nobody");
    end = uint64_t{run.first} + run.count;
  }
  return end == count ? absl::OkStatus() : Broken(what, " end at ", end, " and should at ", count);
}

void Add(std::vector<Run>& all, const Row& more) { all.insert(all.end(), more.begin(), more.end()); }

absl::Status CheckSequence(const Lease& lease, const Sequence& sequence, const Job* job) {
  const std::string name = absl::StrCat("sequence ", sequence.id, " of lease ", lease.id);
  if (sequence.units.size() != static_cast<size_t>(lease.shape.units)) return Broken(name, " has other units");
  if (sequence.written < 0 || sequence.written > sequence.reserved || sequence.reserved > sequence.max_tokens) {
    return Broken(name, ": written ", sequence.written, " reserved ", sequence.reserved);
  }
  if (sequence.observed < 0 || sequence.observed > sequence.written ||
      (sequence.observed == 0) != (sequence.accumulated == nullptr)) {
    return Broken(name, ": observed ", sequence.observed, " written ", sequence.written);
  }
  uint64_t blocks = 0;
  uint64_t longest = 0;
  for (size_t u = 0; u < sequence.units.size(); ++u) {
    const Unit& unit = sequence.units[u];
    if (unit.kept < 0 || unit.kept > unit.base || unit.base > sequence.written) {
      return Broken(name, " unit ", u, ": kept ", unit.kept, " base ", unit.base, " written ", sequence.written);
    }
    const int32_t residents = ResidentsAt(unit, sequence.written);
    if (unit.normed < 0 || unit.normed > (sequence.norms == 0 ? 0 : residents) || unit.scored < 0 ||
        unit.scored > (sequence.observed == 0 ? 0 : residents) || unit.planned < -1) {
      return Broken(name, " unit ", u, ": normed ", unit.normed, " scored ", unit.scored, " planned ", unit.planned);
    }
    const auto u32 = static_cast<uint32_t>(u);
    const bool settled =
        job != nullptr && job->stage != JobStage::kEnding &&
        std::find(job->shrinking.begin(), job->shrinking.begin() + static_cast<ptrdiff_t>(job->settled), u32) !=
            job->shrinking.begin() + static_cast<ptrdiff_t>(job->settled);
    const int32_t room = ResidentsAt(unit, settled ? sequence.written : sequence.reserved);
    const uint64_t row = CountBlocks(unit.row);
    if (row != BlocksFor(static_cast<uint64_t>(room))) {
      return Broken(name, " unit ", u, " has ", row, " blocks for ", room, " tokens");
    }
    for (size_t r = 1; r < unit.row.size(); ++r) {
      if (unit.row[r - 1].end() == unit.row[r].first) return Broken(name, " unit ", u, " has runs that are not merged");
    }
    blocks += row;
    longest = std::max(longest, row);
  }
  if (blocks != sequence.blocks) return Broken(name, " has ", blocks, " blocks, counted as ", sequence.blocks);
  if (longest > sequence.longest_row || (job == nullptr && longest != sequence.longest_row)) {
    return Broken(name, " has a row of ", longest, " blocks, counted as ", sequence.longest_row);
  }
  const uint64_t places = TableBytes(lease.shape.units, sequence.table.row_capacity) / kPlaceBytes;
  const uint64_t start =
      sequence.table.chunk < lease.chunk_starts.size() ? lease.chunk_starts[sequence.table.chunk] : 0;
  if (sequence.table_run.count != places || longest > sequence.table.row_capacity ||
      sequence.table_run.first * kPlaceBytes != start * kPlaceBytes + sequence.table.offset) {
    return Broken(name, " has a table that does not hold its rows");
  }
  return absl::OkStatus();
}

// Who owns which block, table place and plan place of a lease.
absl::Status CheckSpaces(const Lease& lease, const std::map<JobId, Job>& jobs) {
  std::vector<Run> blocks = lease.blocks.Runs();
  std::vector<Run> tables = lease.tables.Runs();
  std::vector<Run> plans = lease.plans.Runs();
  for (const uint32_t start : lease.chunk_starts) tables.push_back({start, 1});
  if (lease.plan_places > 0 && lease.epoch != 0) plans.push_back({0, 1});
  for (const auto& [id, sequence] : lease.sequences) {
    for (const Unit& unit : sequence.units) Add(blocks, unit.row);
    tables.push_back(sequence.table_run);
    plans.push_back(sequence.plan);
  }
  for (const JobId id : lease.jobs) {
    for (const CompactTo& unit : jobs.at(id).wave) Add(blocks, unit.row);
    plans.push_back(jobs.at(id).plan);
  }
  for (const RunAllocator* space : {&lease.blocks, &lease.tables, &lease.plans}) {
    if (absl::Status status = space->Check(); !status.ok()) return status;
  }
  if (absl::Status status = CheckCover("block", blocks, lease.block_count()); !status.ok()) return status;
  if (absl::Status status = CheckCover("table place", tables, lease.table_places); !status.ok()) return status;
  return CheckCover("plan place", plans, lease.epoch != 0 ? lease.plan_places : 0);
}

}  // namespace

absl::Status Core::State::CheckMemory(const Lease& lease) const {
  uint64_t metadata = 0;
  uint64_t extents = 0;
  for (const auto& [id, owned] : lease.objects) {
    const auto owner = objects.find(id);
    if (owner == objects.end() || owner->second != lease.id) return Broken("object ", id, " has another owner");
    const bool extent = owned.object.kind == ObjectKind::kExtent;
    metadata += owned.object.private_bytes + (extent ? 0 : owned.object.bytes);
    extents += extent ? owned.object.bytes : 0;
  }
  if (metadata != lease.account.metadata || extents != lease.account.extents) {
    return Broken("lease ", lease.id, " has ", metadata, " + ", extents, " bytes, charged ", lease.account.metadata,
                  " + ", lease.account.extents);
  }
  uint64_t used = 0;
  for (const auto& [id, sequence] : lease.sequences) used += sequence.blocks * lease.shape.block_bytes;
  if (used != lease.account.used) return Broken("lease ", lease.id, " uses ", used, ", counted ", lease.account.used);
  return absl::OkStatus();
}

absl::Status Core::State::CheckLease(const Lease& lease) const {
  if (absl::Status status = CheckMemory(lease); !status.ok()) return status;
  if (absl::Status status = CheckSpaces(lease, jobs); !status.ok()) return status;
  std::map<uint32_t, uint32_t> longest_rows;
  for (const auto& [id, sequence] : lease.sequences) {
    const Job* job = sequence.job == 0 ? nullptr : &jobs.at(sequence.job);
    if (job != nullptr && (job->sequence != id || job->lease != lease.id || !lease.jobs.contains(job->id))) {
      return Broken("job ", job->id, " is not that of sequence ", id);
    }
    if (sequence.release && job == nullptr) return Broken("sequence ", id, " waits for no job to be released");
    if (absl::Status status = CheckSequence(lease, sequence, job); !status.ok()) return status;
    ++longest_rows[sequence.longest_row];
  }
  if (longest_rows != lease.longest_rows) return Broken("longest rows of lease ", lease.id, " are miscounted");

  // The promise of waves.cc: whoever waits has a wave before it, and the compaction reserve is there.
  uint64_t in_waves = 0;
  bool wave_under_way = false;
  for (const JobId id : lease.jobs) {
    for (const CompactTo& unit : jobs.at(id).wave) in_waves += CountBlocks(unit.row);
    wave_under_way = wave_under_way || jobs.at(id).stage == JobStage::kCompacting;
  }
  const uint64_t reserve = CompactionReserve(lease.block_count(), lease.longest_row());
  if (lease.blocks.free() + in_waves < reserve) {
    return Broken("lease ", lease.id, " has ", lease.blocks.free(), " + ", in_waves, " blocks left of a reserve of ",
                  reserve);
  }
  if (!lease.short_jobs.empty() && !wave_under_way) return Broken("jobs of lease ", lease.id, " wait for nothing");
  if (!lease.queue.empty() && !lease.growth) return Broken("calls of lease ", lease.id, " wait for nothing");
  if (lease.growth && lease.growth->creating == 0) return Broken("lease ", lease.id, " grows by nothing");
  if (lease.queue.size() > kMostQueuedCalls) return Broken("lease ", lease.id, " has ", lease.queue.size(), " calls");
  for (const CallId call : lease.calls) {
    const auto place = calls.find(call);
    if (place == calls.end() || place->second.lease != lease.id) return Broken("call ", call, " is of another lease");
  }
  return absl::OkStatus();
}

absl::Status Core::State::Check() const {
  Ledger sum;
  sum.arena = sum.free = config.arena_bytes;
  std::vector<uint64_t> charged(arena.tenants().size(), 0);
  size_t lease_calls = 0;
  size_t lease_jobs = 0;
  size_t lease_objects = 0;
  for (const auto& [id, lease] : leases) {
    if (absl::Status status = CheckLease(lease); !status.ok()) return status;
    const Account& account = lease.account;
    charged[account.tenant] += account.charged();
    sum.free -= account.charged();
    if (lease.ended()) {
      sum.quarantined += account.charged();
    } else {
      sum.metadata += account.metadata;
      sum.used += account.used;
      sum.reserved += account.extents - account.used;
    }
    lease_calls += lease.calls.size();
    lease_jobs += lease.jobs.size();
    lease_objects += lease.objects.size();
  }
  const Ledger& ledger = arena.ledger();
  if (!(sum == ledger) || !ledger.exact()) {
    return Broken("the ledger says free ", ledger.free, " used ", ledger.used, " metadata ", ledger.metadata,
                  " reserved ", ledger.reserved, " quarantined ", ledger.quarantined, " of ", ledger.arena,
                  "; there are ", sum.free, ", ", sum.used, ", ", sum.metadata, ", ", sum.reserved, ", ",
                  sum.quarantined);
  }
  for (size_t t = 0; t < charged.size(); ++t) {
    const Tenant& tenant = arena.tenants()[t];
    if (charged[t] != tenant.charged || tenant.charged > tenant.hard_limit) {
      return Broken("tenant ", tenant.name, " has ", charged[t], " bytes, charged ", tenant.charged, " of at most ",
                    tenant.hard_limit);
    }
  }
  if (lease_calls != calls.size() || lease_jobs != jobs.size() || lease_objects != objects.size()) {
    return Broken("calls, jobs or objects are miscounted");
  }
  return absl::OkStatus();
}

}  // namespace kvsteward::core
