// What `kvsteward replay` writes.
#include <string>
#include <vector>

#include "app/replay/replay_file.h"

namespace kvsteward::replay {
namespace {

using safetensors::Type;

template <class T>
std::span<const std::byte> Bytes(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

}  // namespace

absl::Status WriteReplay(const std::string& path, const ReplayInput& input, const engine::Policy& policy,
                         const ReplayOutput& output) {
  const int64_t layers = input.geometry.layers;
  const int64_t kv_heads = input.geometry.kv_heads;
  const int64_t tokens = input.tokens;
  return safetensors::Write(
      path,
      {{"keep", {Type::kU8, {layers, kv_heads, tokens}, Bytes(output.keep)}},
       {"scores", {Type::kF32, {layers, kv_heads, tokens}, Bytes(output.scores)}},
       {"head_budgets", {Type::kI32, {layers, kv_heads}, Bytes(output.head_budgets)}},
       {"layer_budgets", {Type::kI32, {layers}, Bytes(output.layer_budgets)}}},
      {{"policy", engine::PolicyToYaml(policy)}, {"version", KVSTEWARD_VERSION}, {"backend", output.backend}});
}

}  // namespace kvsteward::replay
