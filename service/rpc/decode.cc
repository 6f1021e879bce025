#include "service/rpc/decode.h"

#include <bit>
#include <cstring>
#include <memory>
#include <utility>

#include "kvsteward/shm.h"
#include "service/memory/lease_spec.h"
#include "service/rpc/checks.h"
#include "service/rpc/read_policy.h"

namespace kvsteward::rpc {
namespace {

constexpr uint64_t kPageBytes = 4096;  // regions are rounded up to it

absl::Status ReadGeometry(const v1::Geometry& geometry, engine::Geometry& out) {
  if (absl::Status s = CheckRange("geometry.layers", geometry.layers(), 1, 1024); !s.ok()) return s;
  if (absl::Status s = CheckRange("geometry.query_heads", geometry.query_heads(), 1, 1024); !s.ok()) return s;
  if (absl::Status s = CheckRange("geometry.kv_heads", geometry.kv_heads(), 1, 1024); !s.ok()) return s;
  if (absl::Status s = CheckRange("geometry.head_dim", geometry.head_dim(), 1, 1024); !s.ok()) return s;
  if (geometry.query_heads() % geometry.kv_heads() != 0) {
    return Wrong("geometry.query_heads", std::to_string(geometry.query_heads()),
                 "a multiple of geometry.kv_heads, " + std::to_string(geometry.kv_heads()));
  }
  if (absl::Status s = ReadDType("geometry.dtype", geometry.dtype(), out.dtype); !s.ok()) return s;
  out.layers = static_cast<int32_t>(geometry.layers());
  out.query_heads = static_cast<int32_t>(geometry.query_heads());
  out.kv_heads = static_cast<int32_t>(geometry.kv_heads());
  out.head_dim = static_cast<int32_t>(geometry.head_dim());
  return absl::OkStatus();
}

// The request without the lease that it speaks for.
template <class Request>
uint64_t HashWithoutLease(Request request) {
  request.clear_lease();
  return HashOf(request);
}

// int32 little endian. REQUIRES: bytes.size() is a multiple of 4.
std::vector<int32_t> ReadInts(const std::string& bytes) {
  static_assert(std::endian::native == std::endian::little);
  std::vector<int32_t> ints(bytes.size() / sizeof(int32_t));
  if (!bytes.empty()) std::memcpy(ints.data(), bytes.data(), bytes.size());
  return ints;
}

absl::Status ReadResidents(const v1::Residents& residents, uint32_t max_tokens, core::Residents& out) {
  const uint32_t seen = residents.seen_tokens();
  if (absl::Status s = CheckRange("residents.seen_tokens", seen, 1, max_tokens); !s.ok()) return s;
  if (residents.lengths().empty() || residents.lengths_size() > (1 << 20)) {
    return Wrong("residents.lengths", std::to_string(residents.lengths_size()) + " items long",
                 "one length for each unit of the geometry");
  }
  uint64_t total = 0;
  for (int unit = 0; unit < residents.lengths_size(); ++unit) {
    const uint32_t length = residents.lengths(unit);
    if (length > seen) {
      return Wrong("residents.lengths[" + std::to_string(unit) + "]", std::to_string(length),
                   "at most residents.seen_tokens, " + std::to_string(seen));
    }
    total += length;
    out.lengths.push_back(static_cast<int32_t>(length));
  }
  const std::string& bytes = residents.positions();
  if (bytes.size() != total * sizeof(int32_t)) {
    return Wrong("residents.positions", std::to_string(bytes.size()) + " bytes long",
                 "4 bytes for each of the " + std::to_string(total) + " residents that residents.lengths add up to");
  }
  std::vector<int32_t> positions = ReadInts(bytes);
  size_t next = 0;
  for (const int32_t length : out.lengths) {
    int32_t previous = -1;
    for (int32_t i = 0; i < length; ++i, ++next) {
      if (positions[next] <= previous || positions[next] >= static_cast<int32_t>(seen)) {
        return Wrong("residents.positions[" + std::to_string(next) + "]", std::to_string(positions[next]),
                     "above the unit's position before it and below residents.seen_tokens, " + std::to_string(seen));
      }
      previous = positions[next];
    }
  }
  out.seen = static_cast<int32_t>(seen);
  out.positions = std::make_shared<const std::vector<int32_t>>(std::move(positions));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<core::AttachAsked> Decode(const v1::AttachRequest& request) {
  core::AttachAsked asked;
  if (absl::Status s = ReadSecret("ticket", request.ticket(), asked.ticket); !s.ok()) return s;
  if (!request.has_geometry()) {
    return absl::InvalidArgumentError("geometry is missing; send the shape of the model's KV cache");
  }
  auto spec = std::make_shared<core::LeaseSpec>();
  if (absl::Status s = ReadGeometry(request.geometry(), spec->geometry); !s.ok()) return s;
  if (absl::Status s = CheckRange("window_rows", request.window_rows(), 1, 4096); !s.ok()) return s;
  if (absl::Status s = CheckRange("window_slots", request.window_slots(), 0, 1024); !s.ok()) return s;
  if (absl::Status s = CheckRange("plan_bytes", request.plan_bytes(), 0, kMaxPlanBytes); !s.ok()) return s;
  if (absl::Status s = CheckRange("input_bytes", request.input_bytes(), 0, kMaxInputBytes); !s.ok()) return s;

  // At most 2^10 layers * 2^10 heads * 2^12 rows * 2^10 elements * 4 bytes * 2^10 slots: nothing here overflows.
  const engine::Geometry& geometry = spec->geometry;
  const uint64_t row_bytes = static_cast<uint64_t>(geometry.head_dim) * SizeOf(engine::DType::kF32);
  spec->ticket = asked.ticket;
  spec->window_rows = request.window_rows();
  spec->window_slots = request.window_slots();
  spec->window_slot_bytes = kvs_align(static_cast<uint64_t>(geometry.layers) *
                                      static_cast<uint64_t>(geometry.query_heads) * spec->window_rows * row_bytes);
  spec->input_bytes = request.input_bytes();
  const auto to_pages = [](uint64_t bytes) { return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes; };
  asked.shape = {geometry.units(), geometry.block_bytes(), geometry.kv_heads};
  asked.statistics_bytes = to_pages(spec->inputs_offset() + spec->input_bytes);
  asked.plan_bytes = to_pages(request.plan_bytes());
  asked.spec = std::move(spec);
  v1::AttachRequest canonical = request;
  canonical.clear_ticket();
  asked.geometry = canonical.SerializeAsString();
  return asked;
}

absl::StatusOr<core::HoldOpened> Decode(const v1::HoldRequest& request) {
  core::HoldOpened opened;
  if (absl::Status s = ReadLease(request, opened.lease); !s.ok()) return s;
  return opened;
}

absl::StatusOr<core::CreateSequenceAsked> Decode(const v1::CreateSequenceRequest& request) {
  core::CreateSequenceAsked asked;
  if (absl::Status s = ReadLease(request, asked.lease); !s.ok()) return s;
  if (absl::Status s = CheckSequence("sequence", request.sequence()); !s.ok()) return s;
  if (absl::Status s = CheckRange("max_tokens", request.max_tokens(), 1, kMaxTokens); !s.ok()) return s;
  if (request.has_residents()) {
    asked.residents.emplace();
    if (absl::Status s = ReadResidents(request.residents(), request.max_tokens(), *asked.residents); !s.ok()) return s;
  }
  asked.sequence = request.sequence();
  asked.max_tokens = static_cast<int32_t>(request.max_tokens());
  asked.request_hash = HashWithoutLease(request);
  return asked;
}

absl::StatusOr<core::ReserveAsked> Decode(const v1::ReserveRequest& request) {
  core::ReserveAsked asked;
  if (absl::Status s = ReadLease(request, asked.lease); !s.ok()) return s;
  if (absl::Status s = CheckItems(request.sequences(), kMaxReserveSequences); !s.ok()) return s;
  for (int i = 0; i < request.sequences_size(); ++i) {
    const v1::ReserveSequence& item = request.sequences(i);
    if (absl::Status s = CheckRange(Item(i) + "total_tokens", item.total_tokens(), 0, kMaxTokens); !s.ok()) return s;
    if (absl::Status s = CheckRange(Item(i) + "written_tokens", item.written_tokens(), 0, kMaxTokens); !s.ok())
      return s;
    asked.items.push_back({.sequence = item.sequence(),
                           .request_id = item.request_id(),
                           .request_hash = item.request_id() != 0 ? HashOf(item) : 0,
                           .total_tokens = static_cast<int32_t>(item.total_tokens()),
                           .written_tokens = static_cast<int32_t>(item.written_tokens())});
  }
  return asked;
}

absl::StatusOr<core::TruncateAsked> Decode(const v1::TruncateRequest& request) {
  core::TruncateAsked asked;
  if (absl::Status s = ReadLease(request, asked.lease); !s.ok()) return s;
  if (absl::Status s = CheckSequence("sequence", request.sequence()); !s.ok()) return s;
  if (absl::Status s = CheckRange("tokens", request.tokens(), 0, kMaxTokens); !s.ok()) return s;
  asked.sequence = request.sequence();
  asked.request_id = request.request_id();
  asked.request_hash = HashWithoutLease(request);
  asked.tokens = static_cast<int32_t>(request.tokens());
  return asked;
}

absl::StatusOr<core::ReleaseSequenceAsked> Decode(const v1::ReleaseSequenceRequest& request) {
  core::ReleaseSequenceAsked asked;
  if (absl::Status s = ReadLease(request, asked.lease); !s.ok()) return s;
  if (absl::Status s = CheckSequence("sequence", request.sequence()); !s.ok()) return s;
  asked.sequence = request.sequence();
  asked.request_id = request.request_id();
  asked.request_hash = HashWithoutLease(request);
  return asked;
}

absl::StatusOr<core::SetTenantAsked> Decode(const v1::SetTenantRequest& request) {
  core::SetTenantAsked asked;
  if (request.tenant().empty()) {
    return absl::InvalidArgumentError("tenant is missing; send the name of one that ListTenants lists");
  }
  if (!request.has_policy()) {
    return absl::InvalidArgumentError(
        "policy is missing; send a preset's name, a policy as YAML, or an empty text for the configured one");
  }
  if (absl::Status s = ReadPolicy("policy", request.policy(), asked.policy); !s.ok()) return s;
  asked.tenant = request.tenant();
  return asked;
}

}  // namespace kvsteward::rpc
