#include <cstring>
#include <memory>
#include <utility>

#include "service/device/evict_spec.h"
#include "service/rpc/checks.h"
#include "service/rpc/decode.h"

namespace kvsteward::rpc {
namespace {

absl::Status ReadBudget(const std::string& item, const v1::EvictSequence& request, engine::Budget& budget) {
  switch (request.budget_case()) {
    case v1::EvictSequence::kBudgetTokens:
      budget = {engine::Budget::Kind::kTokens, request.budget_tokens()};
      return CheckRange(item + "budget_tokens", request.budget_tokens(), 1, kMaxTokens);
    case v1::EvictSequence::kBudgetPpm:
      budget = {engine::Budget::Kind::kPpmOfSeen, request.budget_ppm()};
      return CheckRange(item + "budget_ppm", request.budget_ppm(), 1, engine::kPpm);
    case v1::EvictSequence::kBudgetBytes:
      budget = {engine::Budget::Kind::kBytes, static_cast<int64_t>(request.budget_bytes())};
      return CheckRange(item + "budget_bytes", request.budget_bytes(), 1, 1ull << 62);
    default:
      return absl::InvalidArgumentError(
          item + "budget is missing; set budget_tokens, budget_ppm or budget_bytes to 1 or more");
  }
}

absl::Status ReadWindow(const std::string& item, const v1::Window& window, uint32_t written, core::EvictSpec& spec) {
  if (absl::Status s = CheckRange(item + "window.rows", window.rows(), 1, 4096); !s.ok()) return s;
  if (absl::Status s = ReadDType(item + "window.dtype", window.dtype(), spec.window_dtype); !s.ok()) return s;
  switch (window.queries_case()) {
    case v1::Window::kSlot:
      if (absl::Status s = CheckRange(item + "window.slot", window.slot(), 0, 1023); !s.ok()) return s;
      spec.window_slot = window.slot();
      break;
    case v1::Window::kInlineQueries: {
      const std::string& bytes = window.inline_queries();
      if (bytes.empty() || bytes.size() > kMaxInlineQueries) {
        return Wrong(item + "window.inline_queries", std::to_string(bytes.size()) + " bytes long",
                     "[layers, query_heads, rows, head_dim] elements in at most 1048576 bytes; larger windows go to a "
                     "window slot");
      }
      spec.window_inline = true;
      spec.inline_queries.resize(bytes.size());
      std::memcpy(spec.inline_queries.data(), bytes.data(), bytes.size());
      break;
    }
    default:
      return absl::InvalidArgumentError(item + "window.queries is missing; set slot or inline_queries");
  }
  if (window.rows() > written) {
    return Wrong(item + "window.rows", std::to_string(window.rows()),
                 "at most written_tokens, " + std::to_string(written));
  }
  if (!window.positions().empty() && static_cast<uint32_t>(window.positions_size()) != window.rows()) {
    return Wrong(item + "window.positions", std::to_string(window.positions_size()) + " items long",
                 "empty or one position for each of the " + std::to_string(window.rows()) + " rows");
  }
  int64_t previous = -1;
  for (int row = 0; row < window.positions_size(); ++row) {
    const uint32_t position = window.positions(row);
    if (position <= previous || position >= written) {
      return Wrong(item + "window.positions[" + std::to_string(row) + "]", std::to_string(position),
                   "above the row's position before it and below written_tokens, " + std::to_string(written));
    }
    previous = position;
    spec.window_positions.push_back(static_cast<int32_t>(position));
  }
  spec.window_rows = static_cast<int32_t>(window.rows());
  return absl::OkStatus();
}

absl::Status ReadEvict(const std::string& item, const v1::EvictSequence& request, const engine::Policy& default_policy,
                       core::EvictItem& out) {
  const uint32_t written = request.written_tokens();
  if (absl::Status s = CheckRange(item + "written_tokens", written, 0, kMaxTokens); !s.ok()) return s;
  auto spec = std::make_shared<core::EvictSpec>();
  if (request.policy().empty()) {
    spec->policy = default_policy;
  } else {
    absl::StatusOr<engine::Policy> policy = ReadPolicy(request.policy());
    if (!policy.ok()) {
      return absl::InvalidArgumentError(item + "policy is refused: " + std::string(policy.status().message()));
    }
    spec->policy = *std::move(policy);
  }
  if (absl::Status s = ReadBudget(item, request, spec->budget); !s.ok()) return s;
  if (request.has_window()) {
    if (absl::Status s = ReadWindow(item, request.window(), written, *spec); !s.ok()) return s;
  }
  if (request.export_scores() && !request.export_plan()) {
    return Wrong(item + "export_scores", "true", "false unless export_plan is true");
  }
  out.sequence = request.sequence();
  out.request_id = request.request_id();
  if (out.request_id != 0) out.request_hash = HashOf(request);
  out.written_tokens = static_cast<int32_t>(written);
  if (request.has_if_version()) out.if_version = request.if_version();
  out.plan_only = request.plan_only();
  out.export_plan = request.export_plan();
  out.export_scores = request.export_scores();
  out.spec = std::move(spec);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<engine::Policy> ReadPolicy(const std::string& text) {
  if (text.size() > kMaxPolicyText) {
    return absl::InvalidArgumentError("its text is " + std::to_string(text.size()) + " bytes long; at most " +
                                      std::to_string(kMaxPolicyText) + " are read");
  }
  // A policy as YAML is a mapping, and none does without a colon; no preset's name has one.
  return text.find(':') == std::string::npos ? engine::Preset(text) : engine::PolicyFromYaml(text);
}

absl::StatusOr<core::EvictAsked> Decode(const v1::EvictRequest& request, const engine::Policy& default_policy) {
  core::EvictAsked asked;
  if (absl::Status s = ReadLease(request, asked.lease); !s.ok()) return s;
  if (absl::Status s = CheckItems(request.sequences(), kMaxEvictSequences); !s.ok()) return s;
  asked.items.resize(static_cast<size_t>(request.sequences_size()));
  for (int i = 0; i < request.sequences_size(); ++i) {
    absl::Status s = ReadEvict(Item(i), request.sequences(i), default_policy, asked.items[static_cast<size_t>(i)]);
    if (!s.ok()) return s;
  }
  return asked;
}

}  // namespace kvsteward::rpc
