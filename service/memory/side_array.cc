#include "service/memory/side_array.h"

#include <utility>

namespace kvsteward::memory {

absl::StatusOr<std::unique_ptr<SideArray>> SideArray::Reserve(ExtentBackend& backend, uint64_t extents, uint64_t share,
                                                              ExtentBackend::Presence presence) {
  std::unique_ptr<SideArray> array(new SideArray(backend, share, presence));
  const uint64_t granule = backend.granularity();
  absl::StatusOr<std::unique_ptr<AddressRange>> range =
      backend.Reserve((extents * share + granule - 1) / granule * granule);
  if (!range.ok()) return range.status();
  array->range_ = *std::move(range);
  return array;
}

// Every extent has the same share, so two of them can only have the granules in common in which one ends and the other
// begins.
std::vector<SideArray::Place> SideArray::PlacesOf(uint32_t extent) const {
  const uint64_t granule = backend_.granularity();
  const uint64_t begin = extent * share_;
  const uint64_t end = begin + share_;
  const uint64_t outer_begin = begin / granule * granule;
  const uint64_t outer_end = (end + granule - 1) / granule * granule;
  const uint64_t inner_begin = begin == outer_begin ? begin : outer_begin + granule;
  const uint64_t inner_end = end == outer_end ? end : outer_end - granule;
  if (inner_begin > inner_end) return {{outer_begin, outer_end}};  // both in one granule
  std::vector<Place> places;
  if (outer_begin < inner_begin) places.push_back({outer_begin, inner_begin});
  if (inner_begin < inner_end) places.push_back({inner_begin, inner_end});
  if (inner_end < outer_end) places.push_back({inner_end, outer_end});
  return places;
}

absl::Status SideArray::Add(uint32_t extent) {
  const std::vector<Place> places = PlacesOf(extent);
  std::vector<std::pair<uint64_t, std::unique_ptr<MemoryObject>>> made;
  for (const Place& place : places) {
    if (memory_.contains(place.begin)) continue;
    absl::StatusOr<std::unique_ptr<MemoryObject>> object =
        backend_.CreatePrivate(place.end - place.begin, data() + place.begin, presence_);
    if (!object.ok()) return object.status();
    made.emplace_back(place.begin, *std::move(object));
  }
  for (auto& [begin, object] : made) memory_[begin].object = std::move(object);
  for (const Place& place : places) ++memory_[place.begin].extents;
  return absl::OkStatus();
}

void SideArray::Remove(uint32_t extent) {
  for (const Place& place : PlacesOf(extent)) {
    const auto found = memory_.find(place.begin);
    if (--found->second.extents == 0) memory_.erase(found);
  }
}

}  // namespace kvsteward::memory
