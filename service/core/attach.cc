// Attach: names the geometry of a lease, creates its regions (and its first extent, if the self-test
// needs one) and makes its key known.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/core/state.h"

namespace kvsteward::core {
namespace {

constexpr int32_t kMostUnits = 1 << 16;
constexpr uint64_t kMostRegionBytes = uint64_t{0xffffffff} * kPlaceBytes;  // its places are numbered in 32 bits

}  // namespace

void Core::State::On(const AttachAsked& event) {
  if (draining) return RefuseDraining(event.call);
  const auto found = tickets.find(event.ticket);
  if (found == tickets.end()) {
    return Refuse(event.call, Code::kNotFound, "ticket is of no connection; connect the fd socket first");
  }
  Lease& lease = leases.at(found->second);
  if (lease.attach_begun) return RepeatAttach(lease, event);

  if (event.shape.units < 1 || event.shape.units > kMostUnits) {
    return Refuse(
        event.call, Code::kInvalidArgument,
        absl::StrCat("geometry.layers * geometry.kv_heads is ", event.shape.units, "; it must be 1 to ", kMostUnits));
  }
  const std::optional<Layout> layout = LayoutFor(event.shape, config);
  if (!layout) {
    return Refuse(event.call, Code::kInvalidArgument,
                  absl::StrCat("geometry makes blocks of ", event.shape.block_bytes,
                               " bytes, which no extent can hold; use another head_dim or dtype"));
  }
  const std::optional<uint64_t> statistics = RoundUp(std::max<uint64_t>(event.statistics_bytes, 1), config.page_bytes);
  if (!statistics || *statistics > kMostRegionBytes) {
    return Refuse(event.call, Code::kInvalidArgument,
                  absl::StrCat("window_slots, window_rows and input_bytes ask for ", event.statistics_bytes,
                               " bytes of statistics; at most ", kMostRegionBytes, " are possible"));
  }
  const std::optional<uint64_t> plans = RoundUp(event.plan_bytes, config.page_bytes);
  if (!plans || *plans > kMostRegionBytes) {
    return Refuse(event.call, Code::kInvalidArgument,
                  absl::StrCat("plan_bytes is ", event.plan_bytes, "; at most ", kMostRegionBytes, " are possible"));
  }
  if (LeasesOf(lease.account.tenant) >= config.max_leases_per_tenant) {
    return Refuse(event.call, Code::kResourceExhausted,
                  absl::StrCat("all ", config.max_leases_per_tenant,
                               " leases of this tenant are taken; end one or raise limits.leases"));
  }
  if (keys.contains(event.new_key)) return Refuse(event.call, Code::kAborted, "the key is taken; call Attach again");
  std::vector<Object> wanted = {{0, ObjectKind::kStatistics, 0, *statistics, 0}};
  if (*plans > 0) wanted.push_back({0, ObjectKind::kPlans, 0, *plans, 0});
  if (config.extent_at_attach) {
    wanted.push_back({0, ObjectKind::kExtent, 0, layout->extent_bytes, layout->private_bytes});
  }
  const uint64_t extent = config.extent_at_attach ? layout->charged_bytes() : 0;  // below 2^63, regions below 2^39
  const uint64_t needed = *statistics + *plans + extent;
  const uint64_t room = arena.Room(lease.account);
  if (needed > room) {
    return Refuse(
        event.call,
        Outcome{
            Code::kResourceExhausted,
            absl::StrCat("the lease's regions ", extent > 0 ? "and first extent " : "", "need ", needed, " bytes and ",
                         room, " are free for this tenant; ask for fewer window slots, input_bytes or plan_bytes"),
            Shortage{needed, room, 0, 0}});
  }

  lease.attach_begun = true;
  lease.geometry = event.geometry;
  lease.spec = event.spec;
  lease.key = event.new_key;
  lease.shape = event.shape;
  lease.layout = *layout;
  lease.plan_places = *plans / kPlaceBytes;
  lease.attach_calls.push_back(event.call);
  keys.emplace(event.new_key, lease.id);
  Park(event.call, {CallKind::kAttach, lease.id, 0});
  Grow(lease, 0, wanted);
}

void Core::State::RepeatAttach(Lease& lease, const AttachAsked& event) {
  if (event.geometry != lease.geometry) {
    return Refuse(event.call, Code::kInvalidArgument,
                  "geometry differs from this ticket's first Attach; connect the fd socket again for another geometry");
  }
  if (lease.state != LeaseState::kAttaching) return Answer(event.call, AttachReplyOf(lease));
  lease.attach_calls.push_back(event.call);
  Park(event.call, {CallKind::kAttach, lease.id, 0});
}

void Core::State::FinishAttach(Lease& lease, const Outcome& failure) {
  const std::vector<CallId> waiting = std::exchange(lease.attach_calls, {});
  if (!failure.ok()) {
    lease.attach_begun = false;
    keys.erase(lease.key);
    for (const CallId call : waiting) Refuse(call, failure);
    return;
  }
  lease.state = LeaseState::kAttached;
  lease.epoch = next_epoch++;
  if (lease.plan_places > 0) lease.plans.Free({1, static_cast<uint32_t>(lease.plan_places - 1)});  // behind the header
  for (const CallId call : waiting) Answer(call, AttachReplyOf(lease));
}

uint64_t Core::State::LeasesOf(size_t tenant) const {
  return static_cast<uint64_t>(std::count_if(leases.begin(), leases.end(), [&](const auto& entry) {
    return entry.second.attach_begun && entry.second.account.tenant == tenant;
  }));
}

AttachReply Core::State::AttachReplyOf(const Lease& lease) const {
  return {lease.id, lease.key, lease.epoch, lease.layout.extent_bytes, lease.layout.blocks_per_extent};
}

}  // namespace kvsteward::core
