#include "tests/core/model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <variant>

namespace kvsteward::core {
namespace {

CallId CallOf(const Event& event) {
  return std::visit(
      [](const auto& e) -> CallId {
        if constexpr (requires { e.call; }) return e.call;
        return 0;
      },
      event);
}

// A device that errs is not followed.
bool Fits(const std::vector<int32_t>& kept, const std::vector<int32_t>& lengths) {
  return std::equal(kept.begin(), kept.end(), lengths.begin(), lengths.end(),
                    [](int32_t k, int32_t length) { return 0 <= k && k <= length; });
}

}  // namespace

uint64_t Model::ModelSequence::Blocks() const {
  uint64_t blocks = 0;
  for (const ModelUnit& unit : units) blocks += unit.row.size();
  return blocks;
}

const Model::ModelSequence* Model::Find(LeaseId lease, SequenceId sequence) const {
  const auto found = leases_.find(lease);
  if (found == leases_.end()) return nullptr;
  for (const auto& [place, candidate] : found->second.sequences) {
    if (candidate.id == sequence) return &candidate;
  }
  return nullptr;
}

Model::ModelSequence* Model::FindIn(ModelLease& lease, SequenceId sequence) {
  for (auto& [place, candidate] : lease.sequences) {
    if (candidate.id == sequence) return &candidate;
  }
  return nullptr;
}

void Model::Take(ModelLease& lease, const std::vector<Run>& runs, std::vector<uint32_t>* row) {
  for (const Run& run : runs) {
    for (uint32_t block = run.first; block < run.end(); ++block) {
      ASSERT_LT(block, lease.taken.size()) << "a block of no exported extent";
      EXPECT_FALSE(lease.taken[block]) << "block " << block << " is given out while somebody owns it";
      lease.taken[block] = true;
      if (row != nullptr) row->push_back(block);
    }
  }
}

void Model::Give(ModelLease& lease, const std::vector<uint32_t>& blocks) {
  for (const uint32_t block : blocks) {
    EXPECT_TRUE(lease.taken[block]);
    lease.taken[block] = false;
  }
}

void Model::ExpectTrimmed(const ModelSequence& sequence, int32_t tokens) {
  for (const ModelUnit& unit : sequence.units) {
    EXPECT_EQ(unit.row.size(), BlocksFor(static_cast<uint64_t>(unit.ResidentsAt(tokens))));
  }
}

void Model::Erase(ModelLease& lease, SequenceId sequence) {
  for (auto it = lease.sequences.begin(); it != lease.sequences.end(); ++it) {
    if (it->second.id != sequence) continue;
    for (const ModelUnit& unit : it->second.units) Give(lease, unit.row);
    lease.sequences.erase(it);
    return;
  }
  ADD_FAILURE() << "sequence " << sequence << " was released and never was";
}

void Model::Before(const Event& event) {
  if (const auto* planned = std::get_if<EvictPlanned>(&event)) {
    const auto found = jobs_.find(planned->job);
    if (found == jobs_.end() || found->second.planned) return;
    ModelJob& job = found->second;
    job.planned = true;
    job.kept = planned->kept;
    job.moving = planned->outcome.ok() && !planned->no_op && !job.plan_only && Fits(job.kept, job.lengths);
  } else if (const auto* done = std::get_if<UnitsCompacted>(&event)) {
    const auto found = jobs_.find(done->job);
    if (found == jobs_.end()) return;
    ModelJob& job = found->second;
    ModelLease& lease = leases_.at(job.lease);
    for (size_t i = 0; i < job.wave.size(); ++i) {
      std::vector<uint32_t> row;
      for (const Run& run : job.wave[i].row) {
        for (uint32_t block = run.first; block < run.end(); ++block) row.push_back(block);
      }
      ModelUnit& unit = lease.sequences.at(job.table).units[job.wave[i].unit];
      if (i < done->units) {
        std::swap(unit.row, row);
        unit.kept = job.kept[job.wave[i].unit];
        unit.base = job.written;
        ++job.compacted;
      }
      Give(lease, row);
    }
    job.wave.clear();
  } else if (const auto* over = std::get_if<JobEnded>(&event)) {
    const auto found = jobs_.find(over->job);
    if (found == jobs_.end() || !found->second.ended) return;
    ModelLease& lease = leases_.at(found->second.lease);
    if (lease.jobs.erase(over->job) == 0) return;
    const auto sequence = lease.sequences.find(found->second.table);
    if (sequence->second.releasing) Erase(lease, sequence->second.id);
  }
}

void Model::After(const Event& event, const std::vector<Effect>& effects) {
  const CallId call = CallOf(event);
  if (call != 0 && !std::holds_alternative<CallCancelled>(event)) asked_.emplace(call, event);
  for (const Effect& effect : effects) Carry(event, effect);

  if (const auto* release = std::get_if<ReleaseSequenceAsked>(&event)) {
    const bool answered = std::any_of(effects.begin(), effects.end(), [&](const Effect& effect) {
      const auto* reply = std::get_if<Reply>(&effect);
      return reply != nullptr && reply->call == call;
    });
    if (answered) return;
    ModelLease& lease = leases_.at(keys_.at(release->lease.key));
    lease.parked_releases.insert(call);
    if (release->request_id != 0) lease.releases.insert(release->request_id);
    FindIn(lease, release->sequence)->releasing = true;
  }
}

void Model::Carry(const Event& event, const Effect& effect) {
  if (const auto* reply = std::get_if<Reply>(&effect)) {
    if (reply->outcome.ok()) CarryReply(*reply);
  } else if (const auto* create = std::get_if<CreateObject>(&effect)) {
    shapes_[create->lease] = create->shape;
  } else if (const auto* exported = std::get_if<ExportObject>(&effect)) {
    exported_.insert(exported->object.id);
    if (exported->object.kind == ObjectKind::kExtent) {
      ModelLease& lease = leases_.at(exported->lease);
      EXPECT_EQ(exported->object.index, lease.extents++) << "extents must be exported in order";
      lease.taken.resize(lease.taken.size() + lease.blocks_per_extent, false);
    } else if (exported->object.kind == ObjectKind::kTables) {
      EXPECT_EQ(exported->object.index, leases_.at(exported->lease).chunks++);
    }
  } else if (const auto* destroy = std::get_if<DestroyObject>(&effect)) {
    if (!exported_.contains(destroy->object)) return;  // a growth that failed: it never held a block
    const auto lease = leases_.find(destroy->lease);
    EXPECT_TRUE(lease == leases_.end() || lease->second.jobs.empty())
        << "lease " << destroy->lease << " is destroyed while job " << *lease->second.jobs.begin() << " uses it";
  } else if (const auto* init = std::get_if<InitTable>(&effect)) {
    ModelLease& lease = leases_.at(init->lease);
    EXPECT_LT(init->table.chunk, lease.chunks) << "a table in a chunk that was not exported";
    const auto [place, fresh] = lease.sequences.try_emplace({init->table.chunk, init->table.offset});
    ASSERT_TRUE(fresh) << "two tables in one place";
    for (const Unit& unit : init->units) {
      ModelUnit& mine = place->second.units.emplace_back(ModelUnit{{}, unit.kept, unit.base});
      Take(lease, unit.row, &mine.row);
    }
  } else if (const auto* append = std::get_if<AppendRows>(&effect)) {
    ModelLease& lease = leases_.at(append->lease);
    ModelSequence& sequence = lease.sequences.at({append->table.chunk, append->table.offset});
    for (const AppendToRow& row : append->rows) {
      std::vector<uint32_t>& mine = sequence.units.at(row.unit).row;
      EXPECT_EQ(row.from, mine.size());
      Take(lease, row.blocks, &mine);
      EXPECT_LE(mine.size(), append->table.row_capacity);
    }
  } else if (const auto* trim = std::get_if<TrimRows>(&effect)) {
    ModelLease& lease = leases_.at(trim->lease);
    ModelSequence& sequence = lease.sequences.at({trim->table.chunk, trim->table.offset});
    for (const RowEnd& end : trim->rows) {
      std::vector<uint32_t>& mine = sequence.units.at(end.unit).row;
      ASSERT_LT(end.blocks, mine.size());
      Give(lease, {mine.begin() + end.blocks, mine.end()});
      mine.resize(end.blocks);
    }
  } else if (const auto* run = std::get_if<RunEvict>(&effect)) {
    CarryRunEvict(event, *run);
  } else if (const auto* compact = std::get_if<CompactUnits>(&effect)) {
    ModelJob& job = jobs_.at(compact->job);
    EXPECT_TRUE(job.moving && job.wave.empty() && !job.ended && !job.cancelled);
    EXPECT_FALSE(compact->units.empty());
    job.wave = compact->units;
    for (const CompactTo& unit : compact->units) {
      std::vector<uint32_t> row;
      Take(leases_.at(job.lease), unit.row, &row);
      EXPECT_EQ(row.size(), BlocksFor(static_cast<uint64_t>(job.kept[unit.unit])));
    }
  } else if (const auto* cancel = std::get_if<CancelJob>(&effect)) {
    EXPECT_FALSE(jobs_.at(cancel->job).ended);
    jobs_.at(cancel->job).cancelled = true;
  } else if (const auto* end = std::get_if<EndJob>(&effect)) {
    CarryEndJob(jobs_.at(end->job));
  }
}

void Model::CarryRunEvict(const Event& event, const RunEvict& run) {
  const auto& asked = std::get<EvictAsked>(event);
  ModelLease& lease = leases_.at(run.lease);
  ModelJob& job = jobs_[run.job];
  job.lease = run.lease;
  job.table = {run.table.chunk, run.table.offset};
  job.call = asked.call;
  job.sequence = run.sequence;
  job.written = run.written_tokens;
  for (const EvictItem& item : asked.items) {
    if (item.sequence == run.sequence) job.plan_only = item.plan_only;
  }
  const ModelSequence& sequence = lease.sequences.at(job.table);
  EXPECT_EQ(sequence.id, run.sequence);
  ASSERT_EQ(sequence.units.size(), run.units.size());
  for (size_t u = 0; u < run.units.size(); ++u) {
    EXPECT_EQ(run.units[u].kept, sequence.units[u].kept);
    EXPECT_EQ(run.units[u].base, sequence.units[u].base);
    job.lengths.push_back(sequence.units[u].ResidentsAt(job.written));
    EXPECT_LE(run.units[u].normed, job.lengths.back());
    std::vector<uint32_t> row;
    for (const Run& blocks : run.units[u].row) {
      for (uint32_t block = blocks.first; block < blocks.end(); ++block) row.push_back(block);
    }
    EXPECT_EQ(row, sequence.units[u].row);
  }
  job.blocks_before = sequence.Blocks();
  lease.jobs.insert(run.job);
}

void Model::CarryEndJob(ModelJob& job) {
  EXPECT_FALSE(job.ended) << "a job ends once";
  EXPECT_TRUE(job.wave.empty()) << "a job ends while a wave is under way";
  job.ended = true;
  ModelLease& lease = leases_.at(job.lease);
  ModelSequence& sequence = lease.sequences.at(job.table);
  const bool shrinks = job.moving && job.kept != job.lengths;
  if (job.moving && (job.compacted > 0 || (!shrinks && !job.cancelled))) {
    ExpectTrimmed(sequence, job.written);
    ++sequence.version;
  }
  job.blocks_after = sequence.Blocks();
}

void Model::CarryReply(const Reply& reply) {
  const Event& event = asked_.at(reply.call);
  if (const auto* attached = std::get_if<AttachReply>(&reply.body)) {
    keys_[attached->key] = attached->lease;
    ModelLease& lease = leases_[attached->lease];
    lease.shape = shapes_.at(attached->lease);
    lease.blocks_per_extent = static_cast<uint32_t>(attached->blocks_per_extent);
    return;
  }
  LeaseId id = 0;
  std::visit(
      [&](const auto& e) {
        if constexpr (requires { e.lease.key; }) id = keys_.at(e.lease.key);
      },
      event);
  if (id == 0) return;
  ModelLease& lease = leases_.at(id);
  if (const auto* created = std::get_if<CreateSequenceReply>(&reply.body)) {
    ModelSequence& sequence = lease.sequences.at({created->table.chunk, created->table.offset});
    sequence.id = std::get<CreateSequenceAsked>(event).sequence;
    EXPECT_LE(created->extents, lease.extents);
    EXPECT_LE(created->table_chunks, lease.chunks);
  } else if (const auto* reserved = std::get_if<ReserveReply>(&reply.body)) {
    EXPECT_EQ(reserved->extents, lease.extents);
  } else if (const auto* truncated = std::get_if<TruncateReply>(&reply.body)) {
    ModelSequence& sequence = *FindIn(lease, std::get<TruncateAsked>(event).sequence);
    if (truncated->version == sequence.version) return;  // nothing to forget, or a repetition
    ExpectTrimmed(sequence, truncated->tokens);
    sequence.version = truncated->version;
  } else if (const auto* evicted = std::get_if<EvictReply>(&reply.body)) {
    CarryEvictReply(reply.call, *evicted);
  } else if (std::holds_alternative<ReleaseSequenceReply>(reply.body)) {
    const auto& release = std::get<ReleaseSequenceAsked>(event);
    if (lease.parked_releases.contains(reply.call)) return;  // its blocks came back with the job's end
    if (release.request_id != 0 && !lease.releases.insert(release.request_id).second) return;  // a repetition
    Erase(lease, release.sequence);
  }
}

void Model::CarryEvictReply(CallId call, const EvictReply& reply) {
  for (const EvictResult& result : reply.results) {
    for (const auto& [id, job] : jobs_) {
      if (job.call != call || job.sequence != result.sequence || !job.moving) continue;
      uint64_t tokens = 0;
      for (size_t u = 0; u < job.lengths.size(); ++u) {
        tokens += static_cast<uint64_t>(job.lengths[u] - result.kept[u]);
        EXPECT_TRUE(!result.outcome.ok() || result.kept[u] == job.kept[u]);
      }
      const uint64_t block_bytes = leases_.at(job.lease).shape.block_bytes;
      EXPECT_EQ(result.lengths, job.lengths);
      EXPECT_EQ(result.units_compacted, job.compacted);
      EXPECT_EQ(result.blocks_freed, job.blocks_before - job.blocks_after);
      EXPECT_EQ(result.bytes_returned, result.blocks_freed * block_bytes);
      EXPECT_EQ(result.bytes_evicted, tokens * block_bytes / 16);
    }
  }
}

}  // namespace kvsteward::core
