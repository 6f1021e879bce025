// Memory objects of leases: created together as a growth, exported, destroyed. A growth is all or nothing: if the
// machine has no room for one of its objects the others go back too, so that indices never have holes.
#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/core/state.h"

namespace kvsteward::core {
namespace {

constexpr uint64_t kMostNumbers = std::numeric_limits<uint32_t>::max();  // of blocks or places of a lease
constexpr uint64_t kImpossible = std::numeric_limits<uint64_t>::max();   // more than any room
constexpr uint64_t kMillion = 1'000'000;

uint64_t CeilDivide(uint64_t a, uint64_t b) { return a / b + (a % b != 0 ? 1 : 0); }

}  // namespace

void Core::State::Grow(Lease& lease, CallId call, const std::vector<Object>& wanted) {
  Growth& growth = lease.growth.emplace();
  growth.call = call;
  for (Object object : wanted) {
    object.id = next_object++;
    arena.Charge(lease.account, object);
    lease.objects.emplace(object.id, OwnedObject{object, ObjectStep::kCreating});
    objects.emplace(object.id, lease.id);
    growth.objects.push_back(object.id);
    ++growth.creating;
    Emit(CreateObject{lease.id, object, lease.shape, lease.spec});
  }
}

void Core::State::On(const ObjectReady& event) {
  const auto found = objects.find(event.object);
  if (found == objects.end()) return;
  Lease& lease = leases.at(found->second);
  OwnedObject& owned = lease.objects.at(event.object);
  if (owned.step != ObjectStep::kCreating) return;
  owned.step = ObjectStep::kReady;
  if (!event.outcome.ok()) {
    arena.Refund(lease.account, owned.object);
    lease.objects.erase(event.object);
    objects.erase(found);
  }
  if (!lease.growth) return Reap(lease);  // the lease ended meanwhile
  if (!event.outcome.ok()) lease.growth->failure = event.outcome;
  if (--lease.growth->creating == 0) FinishGrowth(lease);
}

void Core::State::On(const ObjectDestroyed& event) {
  const auto found = objects.find(event.object);
  if (found == objects.end()) return;
  Lease& lease = leases.at(found->second);
  const auto owned = lease.objects.find(event.object);
  if (owned->second.step != ObjectStep::kDestroying) return;
  arena.Refund(lease.account, owned->second.object);
  lease.objects.erase(owned);
  objects.erase(found);
  Reap(lease);
}

void Core::State::Destroy(Lease& lease, OwnedObject& owned) {
  owned.step = ObjectStep::kDestroying;
  Emit(DestroyObject{lease.id, owned.object.id});
}

void Core::State::FinishGrowth(Lease& lease) {
  const Growth growth = *std::exchange(lease.growth, std::nullopt);
  Outcome failure = growth.failure;
  if (!failure.ok()) {
    failure = {Code::kResourceExhausted, absl::StrCat("the machine has no more memory: ", failure.message), {}};
  }
  for (const ObjectId id : growth.objects) {
    const auto owned = lease.objects.find(id);
    if (owned == lease.objects.end()) continue;  // it could not be created
    if (failure.ok()) {
      Adopt(lease, owned->second.object);
    } else {
      Destroy(lease, owned->second);
    }
  }
  if (lease.state == LeaseState::kAttaching) return FinishAttach(lease, failure);
  const bool awaited = !lease.queue.empty() && lease.queue.front().call == growth.call;
  if (!failure.ok() && awaited) lease.growth_failure = failure;
  ServeShortJobs(lease);
  ServeQueue(lease);
}

void Core::State::Adopt(Lease& lease, const Object& object) {
  Emit(ExportObject{lease.id, lease.socket, object});
  if (object.kind == ObjectKind::kExtent) {
    const uint32_t blocks = lease.layout.blocks_per_extent;
    lease.blocks.Free({lease.extents * blocks, blocks});
    ++lease.extents;
  } else if (object.kind == ObjectKind::kTables) {
    const auto places = static_cast<uint32_t>(object.bytes / kPlaceBytes);
    lease.chunk_starts.push_back(lease.table_places);
    lease.tables.Free({lease.table_places + 1, places - 1});  // the first one is the region's header
    lease.table_places += places;
  }
}

uint64_t Core::State::CompactionReserve(uint64_t blocks, uint32_t longest_row) const {
  const auto ppm = static_cast<uint64_t>(config.compaction_reserve_ppm);
  return std::max<uint64_t>(CeilDivide(blocks * ppm, kMillion), longest_row);  // 2^32 blocks times 2^20
}

// The least number of extents after which need.blocks can be taken and the compaction reserve is still there. Each adds
// per_extent blocks to what is free and per_extent * ppm / 10^6 to the reserve.
uint64_t Core::State::ExtentsFor(const Lease& lease, const Need& need) const {
  if (need.blocks == 0) return 0;
  if (need.blocks > kMostNumbers) return kImpossible;  // also keeps the products below 2^63
  const uint64_t per_extent = lease.layout.blocks_per_extent;
  const uint64_t free = lease.blocks.free();
  const auto ppm = static_cast<uint64_t>(config.compaction_reserve_ppm);
  uint64_t extents = 0;
  const uint64_t with_row = need.blocks + std::max(need.longest_row, lease.longest_row());
  if (with_row > free) extents = CeilDivide(with_row - free, per_extent);
  const uint64_t with_share = need.blocks * kMillion + lease.block_count() * ppm;  // in millionths of a block
  if (with_share > free * kMillion) {
    extents = std::max(extents, CeilDivide(with_share - free * kMillion, per_extent * (kMillion - ppm)));
  }
  return extents;
}

uint64_t Core::State::ChunkBytesFor(const Lease& lease, const Need& need) const {
  if (need.table_places <= lease.tables.longest()) return 0;
  const uint64_t least = SaturatingMultiply(SaturatingAdd(need.table_places, 1), kPlaceBytes);  // behind the header
  const uint64_t bytes = RoundUp(std::max(config.table_chunk_bytes, least), config.page_bytes).value_or(kImpossible);
  return bytes / kPlaceBytes <= kMostNumbers - lease.table_places ? bytes : kImpossible;
}

Supply Core::State::Provide(Lease& lease, CallId call, const Need& need, Outcome& why) {
  const uint64_t extents = ExtentsFor(lease, need);
  const uint64_t chunk_bytes = ChunkBytesFor(lease, need);
  if (extents == 0 && chunk_bytes == 0) return Supply::kReady;

  const uint64_t room = arena.Room(lease.account);
  const uint64_t per_extent = lease.layout.blocks_per_extent;
  const bool machine_full = lease.growth_failure.has_value();
  const uint64_t most_extents =
      machine_full ? 0
                   : std::min(room / lease.layout.charged_bytes(), (kMostNumbers - lease.block_count()) / per_extent);
  const uint64_t bytes = SaturatingAdd(SaturatingMultiply(extents, lease.layout.charged_bytes()), chunk_bytes);
  if (!machine_full && extents <= most_extents && bytes <= room) {
    std::vector<Object> wanted;
    for (uint64_t i = 0; i < extents; ++i) {
      const auto index = static_cast<uint32_t>(lease.extents + i);
      wanted.push_back({0, ObjectKind::kExtent, index, lease.layout.extent_bytes, lease.layout.private_bytes});
    }
    if (chunk_bytes > 0) {
      const auto index = static_cast<uint32_t>(lease.chunk_starts.size());
      wanted.push_back({0, ObjectKind::kTables, index, chunk_bytes, 0});
    }
    Grow(lease, call, wanted);
    return Supply::kGrowing;
  }

  // If blocks lack, the shortage is told in their bytes: what the lease could have with all the extents it could have.
  uint64_t needed_bytes = bytes;
  uint64_t free_bytes = machine_full ? 0 : room;
  if (extents > most_extents) {
    const uint64_t more = most_extents * per_extent;
    const uint64_t reserve =
        CompactionReserve(lease.block_count() + more, std::max(need.longest_row, lease.longest_row()));
    const uint64_t free = lease.blocks.free() + more;
    needed_bytes = SaturatingMultiply(need.blocks, lease.shape.block_bytes);
    free_bytes = free > reserve ? (free - reserve) * lease.shape.block_bytes : 0;
  }
  why = {Code::kResourceExhausted,
         absl::StrCat(machine_full ? lease.growth_failure->message + "; " : "", needed_bytes, " bytes are needed and ",
                      free_bytes, " are free for this lease; evict or release sequences, or ask for fewer tokens"),
         Shortage{needed_bytes, free_bytes, 0, 0}};
  return Supply::kRefused;
}

}  // namespace kvsteward::core
