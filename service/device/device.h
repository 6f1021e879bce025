// The one who drives an engine: runs jobs on one thread of its own, an item at a time, fair between tenants and leases.
// An item is one layer of one job's planning or accumulation, or as many units of its compaction. A job that names a
// ready word is not in the queue before the worker has lifted it: the thread looks between items, and now and then
// while it has none. Thread-safe.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "base/mutex.h"
#include "kvsteward/engine/engine.h"
#include "service/core/effects.h"
#include "service/core/events.h"
#include "service/device/evict_job.h"
#include "service/device/fair_queue.h"
#include "service/device/ready_word.h"
#include "service/memory/lease_pool.h"

namespace kvsteward::device {

class Device {
 public:
  // Takes EvictPlanned, UnitsCompacted and JobEnded: on the device's thread, or within EndJob.
  using OnEvent = std::function<void(core::Event)>;

  // Of a job for its ready word. Until then it takes one of its lease's places for jobs, and a drain waits for it.
  static constexpr std::chrono::milliseconds kLongestWait{10'000};

  explicit Device(std::unique_ptr<engine::Engine> engine, std::chrono::milliseconds longest_wait = kLongestWait);
  ~Device();  // stops
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  std::string backend() const { return std::string(engine_->name()); }

  // REQUIRES: called once.
  void Start(OnEvent on_event);
  // Ends with the item that runs; jobs are dropped with the device. Idempotent; once it returns, the device's thread
  // never calls on_event again.
  void Stop();

  // A new job, answered by EvictPlanned; a job that runs out of memory, or whose ready word does not come in time, is
  // refused. REQUIRES: as EvictJob and ReadyWord; no job has this id.
  void RunEvict(core::RunEvict effect, std::shared_ptr<memory::LeasePool> pool);
  // The next wave of a job that has answered, answered by UnitsCompacted.
  void CompactUnits(core::CompactUnits effect);
  // The job stops waiting, or within the layer that is scored, or before the next layer is compacted. What was asked is
  // still answered, by how far it came.
  void CancelJob(core::JobId job);
  // The job is over, answered by JobEnded when nothing of it runs and it has let go of its lease's pool. What still
  // runs is cancelled and answers first.
  void EndJob(core::JobId job);

 private:
  struct Entry {
    std::unique_ptr<EvictJob> job;
    std::optional<ReadyWord> ready;          // what it waits for, or has waited for
    absl::Status refused;                    // not OK: it waited in vain, and its only item is to say so
    std::optional<core::CompactUnits> wave;  // what the next item is; none: a layer to plan
    bool queued = true;                      // has an item: it waits, is in the queue or runs
    bool answering = false;                  // its last item is done and on_event is about to hear of it
    bool ending = false;                     // JobEnded is owed
  };

  void Run();
  void Queue(const Entry& entry) KVS_REQUIRES(mutex_);
  void Cancel(Entry& entry) KVS_REQUIRES(mutex_);
  // Queues the jobs that need not wait any longer.
  void QueueReady() KVS_REQUIRES(mutex_);
  // Waits for the next item; null to stop. The entry stays while it is queued or answering.
  Entry* Next();
  // Runs the next item of a queued entry. The answer comes with the last one.
  std::optional<core::Event> RunItem(Entry& entry);
  void Answer(Entry& entry, core::Event answer);

  const std::unique_ptr<engine::Engine> engine_;
  const std::chrono::milliseconds longest_wait_;
  OnEvent on_event_;  // set before the thread starts
  std::thread thread_;

  Mutex mutex_;
  CondVar changed_;
  bool stopping_ KVS_GUARDED_BY(mutex_) = false;
  FairQueue queue_ KVS_GUARDED_BY(mutex_);  // jobs that are queued
  std::map<core::JobId, Entry> jobs_ KVS_GUARDED_BY(mutex_);
  std::vector<Entry*> waiting_ KVS_GUARDED_BY(mutex_);  // of jobs_, those whose ready word is awaited
  std::chrono::steady_clock::time_point waiting_since_ KVS_GUARDED_BY(mutex_);  // when the newest came
};

}  // namespace kvsteward::device
