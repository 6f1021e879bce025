#include "service/device/inputs.h"

#include <string>

#include "absl/status/status.h"
#include "kvsteward/shm.h"

namespace kvsteward::device {
namespace {

absl::Status Wrong(const std::string& name, const std::string& what) {
  return absl::InvalidArgumentError("inputs." + name + what);
}

// The `count` elements of an input that was given.
template <class T>
absl::StatusOr<std::span<const T>> Find(const std::string& name, const core::EvictSpec::Input& input, uint64_t count,
                                        std::span<const std::byte> area) {
  const uint64_t bytes = count * sizeof(T);
  if (input.is_inline) {
    if (input.bytes.size() != bytes) {
      return Wrong(name, ".inline_data has " + std::to_string(input.bytes.size()) + " bytes; it must have " +
                             std::to_string(bytes));
    }
    return std::span(reinterpret_cast<const T*>(input.bytes.data()), count);  // allocated, and so aligned
  }
  if (input.offset % KVS_ALIGNMENT != 0) {
    return Wrong(name, ".offset is " + std::to_string(input.offset) + "; it must be a multiple of " +
                           std::to_string(KVS_ALIGNMENT));
  }
  if (input.offset > area.size() || bytes > area.size() - input.offset) {
    return Wrong(name, ".offset is " + std::to_string(input.offset) + ", where " + std::to_string(bytes) +
                           " bytes end behind the inputs area's " + std::to_string(area.size()) +
                           "; ask for more input_bytes in Attach");
  }
  return std::span(reinterpret_cast<const T*>(area.data() + input.offset), count);
}

}  // namespace

absl::StatusOr<engine::InputView> ResolveInputs(const core::EvictSpec& evict, const core::LeaseSpec& lease,
                                                std::span<const std::byte> statistics, int32_t written_tokens,
                                                uint64_t residents, std::vector<uint8_t>* classes) {
  std::span<const std::byte> area;
  const uint64_t offset = lease.inputs_offset();
  if (offset <= statistics.size() && lease.input_bytes <= statistics.size() - offset) {
    area = statistics.subspan(offset, lease.input_bytes);
  }
  // No overflow: rpc/ bounds layers, heads and head_dim by 1024, core the units by 2^16 and their tokens by 2^30.
  const auto head_dim = static_cast<uint64_t>(lease.geometry.head_dim);
  const uint64_t mean =
      static_cast<uint64_t>(lease.geometry.layers) * static_cast<uint64_t>(lease.geometry.query_heads) * head_dim;

  engine::InputView view;
  if (evict.classes.given) {
    const auto flags = Find<uint8_t>("classes", evict.classes, static_cast<uint64_t>(written_tokens), area);
    if (!flags.ok()) return flags.status();
    classes->assign(flags->begin(), flags->end());
    view.classes = *classes;
  }
  struct Floats {
    const char* name;
    const core::EvictSpec::Input& input;
    uint64_t count;
    std::span<const float>& out;
  };
  for (const Floats& each :
       {Floats{"scores", evict.scores, residents, view.scores},
        Floats{"projected_norms", evict.projected_norms, residents, view.projected_norms},
        Floats{"query_mean", evict.query_mean, mean, view.query_mean},
        Floats{"query_covariance", evict.query_covariance, mean * head_dim, view.query_covariance}}) {
    if (!each.input.given) continue;
    const auto floats = Find<float>(each.name, each.input, each.count, area);
    if (!floats.ok()) return floats.status();
    each.out = *floats;
  }
  return view;
}

}  // namespace kvsteward::device
