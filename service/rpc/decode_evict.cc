#include <memory>
#include <utility>

#include "service/device/evict_spec.h"
#include "service/rpc/checks.h"
#include "service/rpc/decode.h"
#include "service/rpc/decode_spec.h"
#include "service/rpc/read_policy.h"

namespace kvsteward::rpc {
namespace {

// Leaves `budget` as it is if the item has none.
template <class Message>
absl::Status ReadBudget(const std::string& prefix, const Message& item, engine::Budget& budget) {
  switch (item.budget_case()) {
    case Message::kBudgetTokens:
      budget = {engine::Budget::Kind::kTokens, item.budget_tokens()};
      return CheckRange(prefix + "budget_tokens", item.budget_tokens(), 1, kMaxTokens);
    case Message::kBudgetPpm:
      budget = {engine::Budget::Kind::kPpmOfSeen, item.budget_ppm()};
      return CheckRange(prefix + "budget_ppm", item.budget_ppm(), 1, engine::kPpm);
    case Message::kBudgetBytes:
      budget = {engine::Budget::Kind::kBytes, static_cast<int64_t>(item.budget_bytes())};
      return CheckRange(prefix + "budget_bytes", item.budget_bytes(), 1, 1ull << 62);
    default:
      return absl::OkStatus();
  }
}

// What Evict and Observe have in common.
template <class Message, class Out>
absl::Status ReadItem(const std::string& prefix, const Message& item, core::EvictSpec& spec, Out& out) {
  const uint32_t written = item.written_tokens();
  if (absl::Status s = CheckRange(prefix + "written_tokens", written, 0, kMaxTokens); !s.ok()) return s;
  if (absl::Status s = ReadPolicy(prefix + "policy", item.policy(), out.policy); !s.ok()) return s;
  if (absl::Status s = ReadBudget(prefix, item, spec.budget); !s.ok()) return s;
  if (item.has_window()) {
    if (absl::Status s = ReadWindow(prefix, item.window(), written, spec); !s.ok()) return s;
  }
  if (absl::Status s = ReadInputs(prefix, item.inputs(), spec); !s.ok()) return s;
  if (item.has_ready()) {
    if (absl::Status s = ReadWord(prefix + "ready", item.ready(), spec.ready); !s.ok()) return s;
  }
  if (item.has_done()) {
    if (absl::Status s = ReadWord(prefix + "done", item.done(), out.done); !s.ok()) return s;
  }
  out.sequence = item.sequence();
  out.request_id = item.request_id();
  if (out.request_id != 0) out.request_hash = HashOf(item);
  out.written_tokens = static_cast<int32_t>(written);
  return absl::OkStatus();
}

absl::Status ReadEvict(const std::string& prefix, const v1::EvictSequence& item, core::EvictItem& out) {
  auto spec = std::make_shared<core::EvictSpec>();
  if (absl::Status s = ReadItem(prefix, item, *spec, out); !s.ok()) return s;
  if (item.budget_case() == v1::EvictSequence::BUDGET_NOT_SET) {
    return absl::InvalidArgumentError(prefix +
                                      "budget is missing; set budget_tokens, budget_ppm or budget_bytes to 1 or more");
  }
  if (item.export_scores() && !item.export_plan()) {
    return Wrong(prefix + "export_scores", "true", "false unless export_plan is true");
  }
  if (item.has_if_version()) out.if_version = item.if_version();
  out.plan_only = item.plan_only();
  out.export_plan = item.export_plan();
  out.export_scores = item.export_scores();
  out.lazy = item.lazy();
  out.spec = std::move(spec);
  return absl::OkStatus();
}

absl::Status ReadObserve(const std::string& prefix, const v1::ObserveSequence& item, core::ObserveItem& out) {
  auto spec = std::make_shared<core::EvictSpec>();
  if (absl::Status s = ReadItem(prefix, item, *spec, out); !s.ok()) return s;
  if (!item.has_window()) {
    return absl::InvalidArgumentError(prefix + "window is missing; send the queries of the rows to be observed");
  }
  out.spec = std::move(spec);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<core::EvictAsked> Decode(const v1::EvictRequest& request) {
  core::EvictAsked asked;
  if (absl::Status s = ReadLease(request, asked.lease); !s.ok()) return s;
  if (absl::Status s = CheckItems(request.sequences(), kMaxEvictSequences); !s.ok()) return s;
  asked.items.resize(static_cast<size_t>(request.sequences_size()));
  for (int i = 0; i < request.sequences_size(); ++i) {
    absl::Status s = ReadEvict(Item(i), request.sequences(i), asked.items[static_cast<size_t>(i)]);
    if (!s.ok()) return s;
  }
  return asked;
}

absl::StatusOr<core::ObserveAsked> Decode(const v1::ObserveRequest& request) {
  core::ObserveAsked asked;
  if (absl::Status s = ReadLease(request, asked.lease); !s.ok()) return s;
  if (absl::Status s = CheckItems(request.sequences(), kMaxEvictSequences); !s.ok()) return s;
  asked.items.resize(static_cast<size_t>(request.sequences_size()));
  for (int i = 0; i < request.sequences_size(); ++i) {
    absl::Status s = ReadObserve(Item(i), request.sequences(i), asked.items[static_cast<size_t>(i)]);
    if (!s.ok()) return s;
  }
  return asked;
}

}  // namespace kvsteward::rpc
