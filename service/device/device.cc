#include "service/device/device.h"

#include <new>
#include <utility>

#include "absl/status/status.h"

namespace kvsteward::device {

Device::Device(std::unique_ptr<engine::Engine> engine) : engine_(std::move(engine)) {}

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
  auto job = std::make_unique<EvictJob>(std::move(effect), std::move(pool));
  const core::RunEvict& ask = job->ask();
  {
    MutexLock lock(mutex_);
    queue_.Add(ask.tenant, ask.lease, ask.job);
    jobs_[ask.job].job = std::move(job);
  }
  changed_.NotifyOne();
}

void Device::CompactUnits(core::CompactUnits effect) {
  {
    MutexLock lock(mutex_);
    const auto found = jobs_.find(effect.job);
    if (found == jobs_.end()) return;
    Entry& entry = found->second;
    const core::RunEvict& ask = entry.job->ask();
    entry.wave = std::move(effect);
    entry.queued = true;
    queue_.Add(ask.tenant, ask.lease, ask.job);
  }
  changed_.NotifyOne();
}

void Device::CancelJob(core::JobId job) {
  MutexLock lock(mutex_);
  const auto found = jobs_.find(job);
  if (found != jobs_.end()) found->second.job->Cancel();
}

void Device::EndJob(core::JobId job) {
  std::map<core::JobId, Entry>::node_type ended;
  {
    MutexLock lock(mutex_);
    const auto found = jobs_.find(job);
    if (found == jobs_.end()) return;
    if (found->second.queued || found->second.answering) {
      found->second.ending = true;
      found->second.job->Cancel();
      return;
    }
    ended = jobs_.extract(found);
  }
  ended = {};  // lets go of the pool before anyone hears of it
  on_event_(core::JobEnded{.job = job});
}

Device::Entry* Device::Next() {
  MutexLock lock(mutex_);
  while (queue_.empty() && !stopping_) changed_.Wait(mutex_);
  return stopping_ ? nullptr : &jobs_.at(*queue_.Next());
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
