#include "app/replay_remote/replay_remote.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kvsteward/client.h"
#include "kvsteward/shm.h"

namespace kvsteward::replay {
namespace {

constexpr int64_t kMostTokens = int64_t{1} << 30;  // what a sidecar takes; as a budget it keeps everything
constexpr int64_t kMostBytes = int64_t{1} << 62;   // likewise
constexpr int32_t kMostRows = 4096;
constexpr std::chrono::minutes kPatience{10};  // a replay may be large and the sidecar busy

// Room for the plan: header, unit plans, then a mask, an index list and scores of each unit.
uint64_t PlanBytes(const ReplayInput& input) {
  uint64_t bytes = sizeof(kvs_plan) + kvs_align(input.units() * sizeof(kvs_unit_plan));
  for (const int32_t length : input.lengths) {
    const auto residents = static_cast<uint64_t>(length);
    bytes += kvs_align((residents + 63) / 64 * sizeof(uint64_t)) + 2 * kvs_align(residents * sizeof(float));
  }
  return bytes;
}

// Where each input lies in the inputs area, and how long that is.
struct InputPlaces {
  Inputs offsets;
  uint64_t bytes = 0;
};

// What the policy reads besides the window; others stay at home.
template <class Use>
void ForEachInput(const ReplayInput& input, const engine::Policy& policy, Use use) {
  if (policy.reads_classes())
    use(&Inputs::classes, std::as_bytes(input.classes.first(static_cast<size_t>(input.seen))));
  if (policy.reads_scores()) use(&Inputs::scores, std::as_bytes(std::span(input.scores)));
  if (policy.reads_projected_norms()) {
    use(&Inputs::projected_norms, std::as_bytes(std::span(input.projected_norms)));
  }
  if (policy.reads_moments()) {
    use(&Inputs::query_mean, std::as_bytes(input.query_mean));
    use(&Inputs::query_covariance, std::as_bytes(input.query_covariance));
  }
}

InputPlaces PlaceInputs(const ReplayInput& input, const engine::Policy& policy) {
  InputPlaces places;
  ForEachInput(input, policy, [&](std::optional<uint64_t> Inputs::*which, std::span<const std::byte> bytes) {
    places.offsets.*which = places.bytes;
    places.bytes += kvs_align(bytes.size());
  });
  return places;
}

void WriteInputs(const ReplayInput& input, const engine::Policy& policy, const InputPlaces& places,
                 std::span<std::byte> area) {
  ForEachInput(input, policy, [&](std::optional<uint64_t> Inputs::*which, std::span<const std::byte> bytes) {
    std::ranges::copy(bytes, area.begin() + static_cast<ptrdiff_t>(*(places.offsets.*which)));
  });
}

ClientOptions ToOptions(const ReplayInput& input, int32_t rows, uint64_t input_bytes, const RemoteSidecar& sidecar) {
  ClientOptions options;
  options.address = sidecar.address;
  options.fd_socket = sidecar.fd_socket;
  options.geometry = {.layers = static_cast<uint32_t>(input.geometry.layers),
                      .query_heads = static_cast<uint32_t>(input.geometry.query_heads),
                      .kv_heads = static_cast<uint32_t>(input.geometry.kv_heads),
                      .head_dim = static_cast<uint32_t>(input.geometry.head_dim),
                      .dtype = static_cast<ElementType>(input.geometry.dtype)};
  options.window_rows = static_cast<uint32_t>(std::max(rows, 1));
  options.window_slots = rows > 0 ? 1 : 0;
  options.plan_bytes = PlanBytes(input);
  options.input_bytes = input_bytes;
  options.call_timeout = kPatience;
  return options;
}

// With every token seen still resident, positions say nothing and need not travel.
bool NothingEvicted(const ReplayInput& input) {
  return std::ranges::all_of(input.lengths, [&](int32_t length) { return length == input.seen; });
}

InitialResidents ToResidents(const ReplayInput& input) {
  InitialResidents residents;
  residents.seen_tokens = static_cast<uint32_t>(input.seen);
  residents.lengths.assign(input.lengths.begin(), input.lengths.end());
  for (size_t u = 0; u < input.units(); ++u) {
    const std::span<const int32_t> positions = input.UnitPositions(u);
    residents.positions.insert(residents.positions.end(), positions.begin(), positions.end());
  }
  return residents;
}

// A sequence with the input's residents, whose keys and values are to be written.
absl::StatusOr<Sequence> CreateSequence(Client& client, const ReplayInput& input) {
  const auto seen = static_cast<uint32_t>(input.seen);
  if (!NothingEvicted(input)) return client.CreateSequence(1, seen, ToResidents(input));
  absl::StatusOr<Sequence> sequence = client.CreateSequence(1, seen);
  if (!sequence.ok()) return sequence.status();
  if (absl::Status status = sequence->Reserve(seen); !status.ok()) return status;
  if (absl::Status status = sequence->Wrote(seen); !status.ok()) return status;
  return sequence;
}

// Writes a tensor's residents to where `at` says that a unit's slot lies; a block's tokens lie together.
template <class At>
absl::Status WriteTokens(const Sequence& sequence, const ReplayInput& input, std::span<const std::byte> tensor, At at) {
  if (tensor.empty()) return absl::OkStatus();
  const size_t token_bytes = input.geometry.token_bytes();
  for (size_t u = 0; u < input.units(); ++u) {
    const std::byte* from = tensor.data() + u * static_cast<size_t>(input.tokens) * token_bytes;
    for (int32_t slot = 0; slot < input.lengths[u]; slot += engine::kBlockTokens) {
      const auto tokens = static_cast<size_t>(std::min(engine::kBlockTokens, input.lengths[u] - slot));
      absl::Status status = sequence.Write(at(static_cast<uint32_t>(u), static_cast<uint32_t>(slot)),
                                           {from + static_cast<size_t>(slot) * token_bytes, tokens * token_bytes});
      if (!status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

// The last `rows` of the recorded query rows, packed.
void WriteWindow(const ReplayInput& input, int32_t rows, std::byte* slot) {
  const size_t row_bytes = static_cast<size_t>(input.geometry.head_dim) * engine::SizeOf(input.query_dtype);
  const size_t recorded = static_cast<size_t>(input.rows) * row_bytes;
  const size_t wanted = static_cast<size_t>(rows) * row_bytes;
  const auto heads = static_cast<size_t>(input.geometry.layers) * static_cast<size_t>(input.geometry.query_heads);
  for (size_t head = 0; head < heads; ++head) {
    std::memcpy(slot + head * wanted, input.queries.data() + (head + 1) * recorded - wanted, wanted);
  }
}

EvictOptions ToEviction(const ReplayInput& input, const engine::Policy& policy, const engine::Budget& budget,
                        int32_t rows, const Inputs& inputs) {
  EvictOptions options;
  options.inputs = inputs;
  options.policy = engine::PolicyToYaml(policy);
  switch (budget.kind) {
    case engine::Budget::Kind::kTokens:
      options.budget_tokens = static_cast<uint32_t>(std::clamp<int64_t>(budget.amount, 0, kMostTokens));
      break;
    case engine::Budget::Kind::kPpmOfSeen:
      options.budget_ppm = static_cast<uint32_t>(std::clamp<int64_t>(budget.amount, 0, kMostTokens));
      break;
    case engine::Budget::Kind::kBytes:
      options.budget_bytes = static_cast<uint64_t>(std::clamp<int64_t>(budget.amount, 0, kMostBytes));
      break;
  }
  options.window = {.rows = static_cast<uint32_t>(rows),
                    .dtype = static_cast<ElementType>(input.query_dtype),
                    .positions = {input.query_positions.end() - rows, input.query_positions.end()}};
  options.plan_only = true;
  options.export_plan = true;
  options.export_scores = true;
  return options;
}

absl::StatusOr<ReplayOutput> ToOutput(const ReplayInput& input, const kvs_plan* plan, std::string backend) {
  ReplayOutput output;
  output.backend = std::move(backend);
  const auto tokens = static_cast<size_t>(input.tokens);
  const auto kv_heads = static_cast<size_t>(input.geometry.kv_heads);
  const auto* base = reinterpret_cast<const std::byte*>(plan);
  output.keep.assign(input.units() * tokens, 0);
  output.scores.assign(input.units() * tokens, 0.0f);
  output.layer_budgets.assign(static_cast<size_t>(input.geometry.layers), 0);
  for (size_t u = 0; u < input.units(); ++u) {
    const kvs_unit_plan unit = *kvs_unit_plan_of(plan, static_cast<uint32_t>(u));
    if (unit.residents != static_cast<uint32_t>(input.lengths[u]) || unit.scores_offset == 0) {
      return absl::InternalError("the sidecar's plan for unit " + std::to_string(u) +
                                 " is not of the replayed tensors");
    }
    const auto* mask = reinterpret_cast<const uint64_t*>(base + unit.mask_offset);
    for (size_t j = 0; j < unit.residents; ++j) {
      output.keep[u * tokens + j] = static_cast<uint8_t>(mask[j / 64] >> (j % 64) & 1);
    }
    std::memcpy(output.scores.data() + u * tokens, base + unit.scores_offset, unit.residents * sizeof(float));
    output.head_budgets.push_back(static_cast<int32_t>(unit.kept));
    output.layer_budgets[u / kv_heads] += static_cast<int32_t>(unit.kept);
  }
  return output;
}

}  // namespace

absl::StatusOr<ReplayOutput> ReplayInSidecar(const ReplayInput& input, const engine::Policy& policy,
                                             const engine::Budget& budget, const RemoteSidecar& sidecar) {
  if (absl::Status status = CheckTensors(input, policy); !status.ok()) return status;
  if (input.seen > kMostTokens) {
    return absl::InvalidArgumentError("positions reach " + std::to_string(input.seen - 1) +
                                      "; a sidecar takes positions below 2^30");
  }
  // Rows before the policy's window are not read.
  const int32_t used = policy.window == 0 ? input.rows : std::min(input.rows, policy.window);
  const int32_t rows = policy.reads_queries() ? used : 0;
  if (rows > kMostRows) {
    return absl::InvalidArgumentError("queries have " + std::to_string(rows) + " rows that policy " + policy.name +
                                      " reads; a sidecar takes at most 4096");
  }
  const InputPlaces inputs = PlaceInputs(input, policy);
  absl::StatusOr<std::unique_ptr<Client>> client = Client::Attach(ToOptions(input, rows, inputs.bytes, sidecar));
  if (!client.ok()) return client.status();
  absl::StatusOr<Sequence> sequence = CreateSequence(**client, input);
  if (!sequence.ok()) return sequence.status();
  absl::Status written = WriteTokens(*sequence, input, input.keys,
                                     [&](uint32_t unit, uint32_t slot) { return sequence->Key(unit, slot); });
  written.Update(WriteTokens(*sequence, input, input.values,
                             [&](uint32_t unit, uint32_t slot) { return sequence->Value(unit, slot); }));
  if (!written.ok()) return written;
  if (rows > 0) WriteWindow(input, rows, (*client)->WindowSlot(0));
  WriteInputs(input, policy, inputs, (*client)->InputArea());
  absl::StatusOr<Evicted> evicted = sequence->Evict(ToEviction(input, policy, budget, rows, inputs.offsets));
  if (!evicted.ok()) return evicted.status();
  if (evicted->plan == nullptr) return absl::InternalError("the sidecar exported no plan");
  absl::StatusOr<ReplayOutput> output = ToOutput(input, evicted->plan, (*client)->backend());
  if (output.ok()) output->unsplit_layers = static_cast<int32_t>(evicted->unsplit_layers);
  return output;
}

}  // namespace kvsteward::replay
