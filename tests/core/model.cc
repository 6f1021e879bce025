#include "tests/core/model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>
#include <variant>

#include "tests/core/world.h"

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

Model::Model(const Config& config) {
  for (const TenantConfig& tenant : config.tenants) {
    tenants_.try_emplace(tenant.name, ModelTenant{tenant.policy, tenant.policy});
  }
}

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

void Model::Take(ModelLease& lease, std::span<const Run> runs, std::vector<uint32_t>* row) {
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

template <typename Items>
std::vector<StoreDone> Model::DueOf(LeaseId id, const Items& items) const {
  std::vector<StoreDone> due;
  const std::set<JobId>& jobs = leases_.at(id).jobs;
  for (const auto& item : items) {
    const bool busy =
        std::any_of(jobs.begin(), jobs.end(), [&](JobId job) { return jobs_.at(job).sequence == item.sequence; });
    if (item.done && !busy) due.push_back({id, *item.done});
  }
  return due;
}

void Model::ExpectStored(const Event& event, const std::vector<Effect>& effects) {
  std::vector<StoreDone> due = std::exchange(due_, {});
  const bool refused = std::any_of(effects.begin(), effects.end(), [](const Effect& effect) {
    const auto* reply = std::get_if<Reply>(&effect);
    return reply != nullptr && !reply->outcome.ok();
  });
  const bool ignored = effects.empty();  // a call that waits for its answer came twice
  if (const auto* evict = std::get_if<EvictAsked>(&event); evict != nullptr && !refused && !ignored) {
    due = DueOf(keys_.at(evict->lease.key), evict->items);
  } else if (const auto* observe = std::get_if<ObserveAsked>(&event); observe != nullptr && !refused && !ignored) {
    due = DueOf(keys_.at(observe->lease.key), observe->items);
  }
  size_t stored = 0;
  for (const Effect& effect : effects) {
    EXPECT_TRUE(stored == due.size() || !std::holds_alternative<Reply>(effect)) << "a reply before a done word";
    const auto* store = std::get_if<StoreDone>(&effect);
    if (store == nullptr) continue;
    ASSERT_LT(stored, due.size()) << "a done word that is not due";
    EXPECT_EQ(store->lease, due[stored].lease);
    EXPECT_EQ(store->done, due[stored].done);
    ++stored;
  }
  EXPECT_EQ(stored, due.size());
}

void Model::Before(const Event& event) {
  if (const auto* planned = std::get_if<EvictPlanned>(&event)) {
    CarryPlanned(*planned);
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
        unit.normed = job.norms_cached ? unit.kept : 0;
        unit.scored = job.scored.empty() ? 0 : job.scored[job.wave[i].unit];
        ++job.compacted;
      }
      Give(lease, row);
    }
    job.cut = job.cut || done->units < job.wave.size();
    job.wave.clear();
  } else if (const auto* over = std::get_if<JobEnded>(&event)) {
    const auto found = jobs_.find(over->job);
    if (found == jobs_.end() || !found->second.ended) return;
    ModelLease& lease = leases_.at(found->second.lease);
    if (lease.jobs.erase(over->job) == 0) return;
    if (found->second.done) due_.push_back({found->second.lease, *found->second.done});
    const auto sequence = lease.sequences.find(found->second.table);
    if (sequence->second.releasing) Erase(lease, sequence->second.id);
  }
}

void Model::CarryPlanned(const EvictPlanned& planned) {
  const auto found = jobs_.find(planned.job);
  if (found == jobs_.end() || found->second.planned) return;
  ModelJob& job = found->second;
  job.planned = true;
  ModelSequence& sequence = leases_.at(job.lease).sequences.at(job.table);
  const auto all = [&](int32_t ModelUnit::*stored, bool residents) {
    for (ModelUnit& unit : sequence.units) unit.*stored = residents ? unit.ResidentsAt(job.written) : 0;
  };
  if (planned.norms) {
    sequence.norms = *planned.norms;
    job.norms_cached = sequence.norms != 0;
    all(&ModelUnit::normed, job.norms_cached);
  }
  const bool plan = !job.observe && !planned.no_op;
  const bool fits =
      planned.observed_tokens <= job.written &&
      (!plan || (Fits(planned.kept, job.lengths) && (planned.scored.empty() || Fits(planned.scored, planned.kept))));
  if (!planned.outcome.ok() || !fits) return;
  if (planned.observed_tokens > 0) {
    sequence.observed = planned.observed_tokens;
    if (!sequence.accumulated) sequence.accumulated = job.policy;
    all(&ModelUnit::scored, true);
  }
  job.kept = planned.kept;
  if (sequence.observed > 0) job.scored = planned.scored;
  job.moving = plan && !job.plan_only;
}

void Model::After(const Event& event, const std::vector<Effect>& effects) {
  const CallId call = CallOf(event);
  if (call != 0 && !std::holds_alternative<CallCancelled>(event)) asked_.emplace(call, event);
  for (const Effect& effect : effects) Carry(event, effect);
  ExpectStored(event, effects);

  if (const auto* set = std::get_if<SetTenantAsked>(&event)) {
    const auto tenant = tenants_.find(set->tenant);
    if (tenant != tenants_.end()) tenant->second.policy = set->policy ? set->policy : tenant->second.configured;
  } else if (const auto* release = std::get_if<ReleaseSequenceAsked>(&event)) {
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
      ModelLease& lease = leases_[exported->lease];  // the first one may come before Attach is answered
      EXPECT_EQ(exported->object.index, lease.extents++) << "extents must be exported in order";
      lease.taken.resize(size_t{lease.extents} * lease.blocks_per_extent, false);
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
    EXPECT_TRUE(job.moving && job.wave.empty() && !job.ended);
    EXPECT_TRUE(!job.cancelled || WithinLayer(job)) << "a cancelled job goes on with another layer";
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
  ModelLease& lease = leases_.at(run.lease);
  ModelJob& job = jobs_[run.job];
  job.lease = run.lease;
  job.table = {run.table.chunk, run.table.offset};
  job.call = CallOf(event);
  job.sequence = run.sequence;
  job.policy = run.policy;
  job.written = run.written_tokens;
  const ModelSequence& sequence = lease.sequences.at(job.table);
  if (const auto* observe = std::get_if<ObserveAsked>(&event)) {
    job.observe = true;
    for (const ObserveItem& item : observe->items) {
      if (item.sequence != run.sequence) continue;
      ExpectPolicy(run, item.policy);
      job.done = item.done;
    }
  } else {
    for (const EvictItem& item : std::get<EvictAsked>(event).items) {
      if (item.sequence != run.sequence) continue;
      ExpectPolicy(run, item.policy);
      job.plan_only = item.plan_only;
      job.done = item.done;
      if (!item.lazy || item.spec->budget_tokens < 1) continue;
      EXPECT_TRUE(std::any_of(sequence.units.begin(), sequence.units.end(), [&](const ModelUnit& unit) {
        const int32_t budget = item.spec->budget_tokens;  // which may not be the plan's
        return unit.ResidentsAt(job.written) >= (unit.planned < 0 ? budget : std::min(budget, unit.planned)) + 16;
      })) << "a lazy eviction that was not due";
    }
  }
  EXPECT_EQ(run.observe, job.observe);
  EXPECT_EQ(run.plan_only, job.plan_only);
  EXPECT_EQ(run.observed_tokens, sequence.observed);
  EXPECT_EQ(run.accumulated, sequence.accumulated);
  EXPECT_EQ(run.norms, sequence.norms);
  EXPECT_EQ(sequence.id, run.sequence);
  ASSERT_EQ(sequence.units.size(), run.units.size());
  for (size_t u = 0; u < run.units.size(); ++u) {
    EXPECT_EQ(run.units[u].kept, sequence.units[u].kept);
    EXPECT_EQ(run.units[u].base, sequence.units[u].base);
    job.lengths.push_back(sequence.units[u].ResidentsAt(job.written));
    EXPECT_EQ(run.units[u].normed, sequence.units[u].normed);
    EXPECT_EQ(run.units[u].scored, sequence.units[u].scored);
    std::vector<uint32_t> row;
    for (const Run& blocks : run.units[u].row) {
      for (uint32_t block = blocks.first; block < blocks.end(); ++block) row.push_back(block);
    }
    EXPECT_EQ(row, sequence.units[u].row);
  }
  job.blocks_before = sequence.Blocks();
  lease.jobs.insert(run.job);
}

void Model::ExpectPolicy(const RunEvict& run, const PolicyRef& named) {
  EXPECT_EQ(run.policy, named ? named : tenants_.at(run.tenant).policy);
}

void Model::CarryTruncate(ModelSequence& sequence, const TruncateReply& reply) {
  ExpectTrimmed(sequence, reply.tokens);
  sequence.version = reply.version;
  for (ModelUnit& unit : sequence.units) {
    unit.normed = std::min(unit.normed, unit.ResidentsAt(reply.tokens));
    unit.scored = std::min(unit.scored, unit.ResidentsAt(reply.tokens));
  }
  sequence.observed = std::min(sequence.observed, reply.tokens);
  if (sequence.observed == 0) sequence.accumulated = nullptr;
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
    for (size_t u = 0; u < job.kept.size(); ++u) sequence.units[u].planned = job.kept[u];
  }
  EXPECT_TRUE(job.cut || !WithinLayer(job)) << "a job ends within a layer";
  job.blocks_after = sequence.Blocks();
}

bool Model::WithinLayer(const ModelJob& job) const {
  if (!job.moving || job.compacted == 0) return false;
  const auto kv_heads = static_cast<size_t>(leases_.at(job.lease).shape.kv_heads);
  std::vector<size_t> shrinking;
  for (size_t u = 0; u < job.kept.size(); ++u) {
    if (job.kept[u] < job.lengths[u]) shrinking.push_back(u);
  }
  const auto done = static_cast<size_t>(job.compacted);
  return done < shrinking.size() && shrinking[done - 1] / kv_heads == shrinking[done] / kv_heads;
}

void Model::CarryReply(const Reply& reply) {
  const Event& event = asked_.at(reply.call);
  if (const auto* attached = std::get_if<AttachReply>(&reply.body)) {
    keys_[attached->key] = attached->lease;
    ModelLease& lease = leases_[attached->lease];
    lease.shape = shapes_.at(attached->lease);
    lease.blocks_per_extent = static_cast<uint32_t>(attached->blocks_per_extent);
    lease.taken.resize(size_t{lease.extents} * lease.blocks_per_extent, false);
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
    if (truncated->version <= sequence.version) return;  // nothing to forget, or a repetition
    CarryTruncate(sequence, *truncated);
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
