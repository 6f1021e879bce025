// A second, much simpler account of who owns which block and what is stored of its tokens, made from nothing but the
// events core was told and the effects it asked for. Every disagreement is a test failure.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "service/core/core.h"

namespace kvsteward::core {

class Model {
 public:
  explicit Model(const Config& config);

  // Call with every event before core has it, and with its effects afterwards.
  void Before(const Event& event);
  void After(const Event& event, const std::vector<Effect>& effects);

  struct ModelUnit {
    std::vector<uint32_t> row;
    int32_t kept = 0;
    int32_t base = 0;
    int32_t normed = 0;
    int32_t scored = 0;
    int32_t planned = -1;
    int32_t ResidentsAt(int32_t tokens) const { return kept + tokens - base; }
  };
  struct ModelSequence {
    SequenceId id = 0;
    std::vector<ModelUnit> units;
    uint64_t version = 1;
    int32_t observed = 0;
    PolicyRef accumulated;
    uint8_t norms = 0;
    bool releasing = false;
    uint64_t Blocks() const;
  };
  // A sequence of a lease that answers; nullptr if there is none.
  const ModelSequence* Find(LeaseId lease, SequenceId sequence) const;

 private:
  using Place = std::pair<uint32_t, uint64_t>;  // of a table: chunk and offset
  struct ModelLease {
    Shape shape;
    uint32_t blocks_per_extent = 0;
    uint32_t extents = 0;
    uint32_t chunks = 0;
    std::vector<bool> taken;  // by block
    std::map<Place, ModelSequence> sequences;
    std::set<JobId> jobs;
    std::set<uint64_t> releases;  // request ids
    std::set<CallId> parked_releases;
  };
  struct ModelJob {
    LeaseId lease = 0;
    Place table;
    CallId call = 0;
    SequenceId sequence = 0;
    PolicyRef policy;
    std::optional<WordValue> done;
    bool observe = false;
    bool plan_only = false;
    bool cancelled = false;
    bool planned = false;
    bool moving = false;  // there is a plan that moves tokens
    bool ended = false;
    bool cut = false;  // the device did less than a wave
    int32_t written = 0;
    std::vector<int32_t> lengths;
    std::vector<int32_t> kept;
    std::vector<int32_t> scored;
    bool norms_cached = false;
    std::vector<CompactTo> wave;
    uint32_t compacted = 0;
    uint64_t blocks_before = 0;
    uint64_t blocks_after = 0;
  };

  // The done words that are due by this event are stored, each once, before it is answered.
  void ExpectStored(const Event& event, const std::vector<Effect>& effects);
  // Of a call's items: those that were answered without a job, unless an earlier one has the sequence.
  template <typename Items>
  std::vector<StoreDone> DueOf(LeaseId id, const Items& items) const;
  void Take(ModelLease& lease, std::span<const Run> runs, std::vector<uint32_t>* row);
  void Give(ModelLease& lease, const std::vector<uint32_t>& blocks);
  // The rows hold exactly the blocks of the residents at `tokens`: what was cut has been said.
  void ExpectTrimmed(const ModelSequence& sequence, int32_t tokens);
  void Erase(ModelLease& lease, SequenceId sequence);
  ModelSequence* FindIn(ModelLease& lease, SequenceId sequence);
  void Carry(const Event& event, const Effect& effect);
  void CarryReply(const Reply& reply);
  void CarryEvictReply(CallId call, const EvictReply& reply);
  void CarryPlanned(const EvictPlanned& planned);
  void CarryRunEvict(const Event& event, const RunEvict& run);
  void ExpectPolicy(const RunEvict& run, const PolicyRef& named);
  void CarryTruncate(ModelSequence& sequence, const TruncateReply& reply);
  void CarryEndJob(ModelJob& job);
  // Whether the last unit compacted and the next one are of one layer.
  bool WithinLayer(const ModelJob& job) const;

  struct ModelTenant {
    PolicyRef configured;
    PolicyRef policy;
  };
  std::map<std::string, ModelTenant> tenants_;
  std::map<LeaseId, ModelLease> leases_;
  std::map<Secret, LeaseId> keys_;
  std::map<LeaseId, Shape> shapes_;  // from CreateObject, before the lease answers
  std::map<JobId, ModelJob> jobs_;
  std::map<CallId, Event> asked_;
  std::set<ObjectId> exported_;
  std::vector<StoreDone> due_;  // by the job that has just ended
};

}  // namespace kvsteward::core
