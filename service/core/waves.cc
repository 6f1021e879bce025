// Compaction in waves. Rows are copied out of place into blocks that are free in the lease; the old ones are freed when
// the copy is published.
//
// No job waits for ever. Every Reserve and import leaves as many blocks free as the longest row has (the compaction
// reserve), a wave only moves blocks from free to the job, and what it frees when it settles is never less than what it
// took. So free blocks plus blocks of waves under way are always at least the longest row, and a unit never needs more
// than its own row: a job that finds too few has another's wave under way before it, and the device answers every wave.
//
// A cancelled job goes on to the end of the layer it has begun: kv heads that are evicted as one must go on holding the
// same tokens. So a wave has whole layers if free blocks suffice for one.
#include <algorithm>
#include <utility>

#include "kvsteward/shm.h"
#include "service/core/row.h"
#include "service/core/state.h"

namespace kvsteward::core {

namespace {

// Blocks that the job's shrinking unit `i` needs.
uint32_t BlocksOf(const Job& job, size_t i) {
  return BlocksFor(static_cast<uint64_t>(job.result.kept[job.shrinking[i]]));
}

}  // namespace

// Whether the job's shrinking unit `i` is of the same layer as the one before it.
bool Core::State::WithinLayer(const Lease& lease, const Job& job, size_t i) const {
  const auto layer = [&](size_t j) { return job.shrinking[j] / static_cast<uint32_t>(lease.shape.kv_heads); };
  return i > 0 && i < job.shrinking.size() && layer(i - 1) == layer(i);
}

void Core::State::QueueWave(Lease& lease, Job& job) {
  job.stage = JobStage::kShort;
  job.short_since = now;
  lease.short_jobs.push_back(job.id);
  ServeShortJobs(lease);
}

void Core::State::ServeShortJobs(Lease& lease) {
  while (!lease.short_jobs.empty() && SendWave(lease, jobs.at(lease.short_jobs.front()))) lease.short_jobs.pop_front();
}

// Where the next wave ends: it has as many layers as free blocks suffice for, or else as many units of one. A cancelled
// job's ends with the layer.
size_t Core::State::WaveEnd(const Lease& lease, const Job& job) const {
  uint64_t left = lease.blocks.free();
  size_t end = job.sent;
  while (end < job.shrinking.size()) {
    size_t layer_end = end;
    uint64_t blocks = 0;
    do {
      blocks += BlocksOf(job, layer_end++);
    } while (WithinLayer(lease, job, layer_end));
    if (blocks > left) break;
    left -= blocks;
    end = layer_end;
    if (job.cancelled) return end;
  }
  if (end > job.sent) return end;
  for (; end < job.shrinking.size() && BlocksOf(job, end) <= left; ++end) left -= BlocksOf(job, end);
  return end;
}

// False if there are too few free blocks for the next unit.
bool Core::State::SendWave(Lease& lease, Job& job) {
  const size_t end = WaveEnd(lease, job);
  if (end == job.sent) return false;
  uint64_t blocks = 0;
  for (size_t i = job.sent; i < end; ++i) blocks += BlocksOf(job, i);
  Row pieces = lease.blocks.Take(blocks);  // the wave's rows lie one behind another
  Run* piece = pieces.begin();
  job.wave.reserve(end - job.sent);
  for (; job.sent < end; ++job.sent) {
    CompactTo& to = job.wave.emplace_back(CompactTo{job.shrinking[job.sent], {}});
    for (uint32_t count = BlocksOf(job, job.sent); count > 0;) {
      const uint32_t part = std::min(count, piece->count);
      to.row.push_back({piece->first, part});
      *piece = {piece->first + part, piece->count - part};
      count -= part;
      if (piece->count == 0) ++piece;
    }
  }
  job.stage = JobStage::kCompacting;
  job.result.times.queue_us += static_cast<uint64_t>(std::max(Duration{0}, now - job.short_since).count());
  Emit(CompactUnits{job.id, job.wave});
  return true;
}

void Core::State::On(const UnitsCompacted& event) {
  const auto found = jobs.find(event.job);
  if (found == jobs.end() || found->second.stage != JobStage::kCompacting) return;
  Job& job = found->second;
  Lease& lease = leases.at(job.lease);
  Sequence& sequence = lease.sequences.at(job.sequence);
  const size_t done = std::min<size_t>(event.units, job.wave.size());
  const bool all = done == job.wave.size();
  std::vector<Row> unused;
  unused.reserve(job.wave.size());
  for (size_t i = 0; i < job.wave.size(); ++i) {
    if (i < done) Settle(lease, sequence, job, job.wave[i]);
    unused.push_back(std::move(job.wave[i].row));
  }
  lease.blocks.Free(unused);
  job.wave.clear();
  job.result.times.compact_us += event.compact_us;
  if (!all) job.result.outcome = event.outcome;
  const bool stops = job.cancelled && !WithinLayer(lease, job, job.settled);
  if (stops || !all || job.settled == job.shrinking.size()) {
    Conclude(lease, job);
    ServeShortJobs(lease);
  } else {
    QueueWave(lease, job);  // behind the others that wait
  }
}

// The unit and its compaction change rows: `done` has the old one then, which is not free yet.
void Core::State::Settle(Lease& lease, Sequence& sequence, Job& job, CompactTo& done) {
  Unit& unit = sequence.units[done.unit];
  std::swap(unit.row, done.row);
  const uint64_t before = CountBlocks(done.row);
  const uint64_t after = CountBlocks(unit.row);
  unit.kept = job.result.kept[done.unit];
  unit.base = sequence.written;
  unit.normed = job.norms_cached ? unit.kept : 0;
  unit.scored = job.scored.empty() ? 0 : job.scored[done.unit];
  sequence.blocks -= before - after;
  job.result.blocks_freed += before - after;
  arena.Unuse(lease.account, (before - after) * lease.shape.block_bytes);
  ++job.settled;
}

// The job moves nothing more. If it was not stopped before its first unit, unused blocks of the other rows go too, so
// that every row has exactly what its residents need.
void Core::State::Conclude(Lease& lease, Job& job) {
  Sequence& sequence = lease.sequences.at(job.sequence);
  EvictResult& result = job.result;
  const bool complete = job.settled == job.shrinking.size() && !(job.cancelled && job.shrinking.empty());
  if (complete || job.settled > 0) {
    result.blocks_freed += ShortenRows(lease, sequence, sequence.written);
    ++sequence.version;
    for (size_t u = 0; u < sequence.units.size(); ++u) sequence.units[u].planned = result.kept[u];
    sequence.planned_at = sequence.written;
    sequence.planned_budget = result.budget_tokens;
  }
  uint64_t evicted = 0;  // tokens
  for (size_t u = 0; u < sequence.units.size(); ++u) {
    const int32_t residents = ResidentsAt(sequence.units[u], sequence.written);
    evicted += static_cast<uint64_t>(result.lengths[u] - residents);
    result.kept[u] = residents;
  }
  // A block holds 16 tokens; split so that the product stays below the arena's size.
  const uint64_t block_bytes = lease.shape.block_bytes;
  result.bytes_evicted =
      evicted / KVS_BLOCK_TOKENS * block_bytes + evicted % KVS_BLOCK_TOKENS * block_bytes / KVS_BLOCK_TOKENS;
  result.units_compacted = static_cast<uint32_t>(job.settled);
  result.bytes_returned = result.blocks_freed * block_bytes;
  if (!complete && result.outcome.ok()) {
    result.outcome = {Code::kCancelled, "the eviction was cancelled; units that were compacted stay so", {}};
  }
  EndJobOf(job);
}

}  // namespace kvsteward::core
