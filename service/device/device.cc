#include "service/device/device.h"

#include <algorithm>
#include <new>
#include <utility>

namespace kvsteward::device {
namespace {

using Clock = std::chrono::steady_clock;

// Until ready words are looked at again, if there is nothing else to do and the newest has been awaited so long: short
// against that, and in the long run 250 looks a second, which take below 1 % of a core.
Clock::duration Nap(Clock::duration awaited) {
  return std::clamp<Clock::duration>(awaited / 8, std::chrono::microseconds(20), std::chrono::milliseconds(4));
}

}  // namespace

Device::Device(std::unique_ptr<engine::Engine> engine, std::chrono::milliseconds longest_wait)
    : engine_(std::move(engine)), longest_wait_(longest_wait) {}

Device::~Device() { Stop(); }

void Device::Start(OnEvent on_event) {
  on_event_ = std::move(on_event);
  thread_ = std::thread([this] { Run(); });
}

void Device::Stop() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.NotifyAll();
  if (thread_.joinable()) thread_.join();
}

void Device::RunEvict(core::RunEvict effect, std::shared_ptr<memory::LeasePool> pool) {
  const std::span<const std::byte> statistics = pool->Bytes(core::ObjectKind::kStatistics, 0);
  auto job = std::make_unique<EvictJob>(std::move(effect), std::move(pool));
  const core::RunEvict& ask = job->ask();
  {
    MutexLock lock(mutex_);
    Entry& entry = jobs_[ask.job];
    entry.job = std::move(job);
    if (ask.spec->ready) {
      waiting_since_ = Clock::now();
      entry.ready.emplace(*ask.spec->ready, statistics, waiting_since_ + longest_wait_);
      waiting_.push_back(&entry);
    } else {
      Queue(entry);
    }
  }
  changed_.NotifyOne();
}

void Device::Queue(const Entry& entry) {
  const core::RunEvict& ask = entry.job->ask();
  queue_.Add(ask.tenant, ask.lease, ask.job);
}

void Device::CompactUnits(core::CompactUnits effect) {
  {
    MutexLock lock(mutex_);
    const auto found = jobs_.find(effect.job);
    if (found == jobs_.end()) return;
    Entry& entry = found->second;
    entry.wave = std::move(effect);
    entry.queued = true;
    Queue(entry);
  }
  changed_.NotifyOne();
}

void Device::CancelJob(core::JobId job) {
  MutexLock lock(mutex_);
  const auto found = jobs_.find(job);
  if (found != jobs_.end()) Cancel(found->second);
}

void Device::Cancel(Entry& entry) {
  entry.job->Cancel();
  if (std::erase(waiting_, &entry) == 0) return;
  entry.refused = absl::CancelledError("the call was cancelled while it waited for its ready word");
  Queue(entry);
  changed_.NotifyOne();
}

void Device::EndJob(core::JobId job) {
  std::map<core::JobId, Entry>::node_type ended;
  {
    MutexLock lock(mutex_);
    const auto found = jobs_.find(job);
    if (found == jobs_.end()) return;
    if (found->second.queued || found->second.answering) {
      found->second.ending = true;
      Cancel(found->second);
      return;
    }
    ended = jobs_.extract(found);
  }
  ended = {};  // lets go of the pool before anyone hears of it
  on_event_(core::JobEnded{.job = job});
}

void Device::QueueReady() {
  const Clock::time_point now = Clock::now();
  size_t left = 0;
  for (Entry* entry : waiting_) {
    if (!entry->ready->Reached()) {
      if (now < entry->ready->deadline()) {
        waiting_[left++] = entry;
        continue;
      }
      entry->refused = entry->ready->Late();
    }
    Queue(*entry);
  }
  waiting_.resize(left);
}

Device::Entry* Device::Next() {
  MutexLock lock(mutex_);
  while (!stopping_) {
    if (!waiting_.empty()) QueueReady();
    if (const std::optional<core::JobId> next = queue_.Next()) return &jobs_.at(*next);
    if (waiting_.empty()) {
      changed_.Wait(mutex_);
    } else {
      const Clock::time_point now = Clock::now();
      changed_.WaitUntil(mutex_, now + Nap(now - waiting_since_));
    }
  }
  return nullptr;
}

void Device::Answer(Entry& entry, core::Event answer) {
  const core::JobId job = entry.job->ask().job;
  {
    MutexLock lock(mutex_);
    queue_.Remove(entry.job->ask().tenant, entry.job->ask().lease, job);
    entry.wave.reset();
    entry.queued = false;
    entry.answering = true;
  }
  on_event_(std::move(answer));  // from here on the job may get its next wave, or be ended
  std::map<core::JobId, Entry>::node_type ended;
  {
    MutexLock lock(mutex_);
    entry.answering = false;
    if (!entry.ending || entry.queued) return;
    ended = jobs_.extract(job);
  }
  ended = {};
  on_event_(core::JobEnded{.job = job});
}

std::optional<core::Event> Device::RunItem(Entry& entry) {
  if (!entry.refused.ok()) return entry.job->Refuse(entry.refused);
  try {
    if (entry.wave) return entry.job->CompactLayer(*engine_, *entry.wave);
    return entry.job->PlanLayer(*engine_);
  } catch (const std::bad_alloc&) {
    if (entry.wave) {
      return entry.job->StopCompacting(absl::ResourceExhaustedError(
          "the machine has too little memory left to copy the kept tokens; units that were compacted stay so, evict "
          "again"));
    }
    return entry.job->Refuse(
        absl::ResourceExhaustedError("the job needs more memory than the machine has left, and nothing was changed; "
                                     "evict earlier, or use a policy that reads less"));
  }
}

void Device::Run() {
  while (Entry* entry = Next()) {
    if (std::optional<core::Event> answer = RunItem(*entry)) Answer(*entry, *std::move(answer));
  }
}

}  // namespace kvsteward::device
