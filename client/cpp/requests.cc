#include "client/cpp/requests.h"

#include <optional>

#include "absl/strings/str_cat.h"

namespace kvsteward {
namespace {

template <class Options>
int Budgets(const Options& options) {
  return options.budget_tokens.has_value() + options.budget_ppm.has_value() + options.budget_bytes.has_value();
}

template <class Item>
void FillInputs(const Inputs& inputs, Item& item) {
  const struct {
    const std::optional<uint64_t>& offset;
    v1::Input* (v1::Inputs::*input)();
  } all[] = {{inputs.classes, &v1::Inputs::mutable_classes},
             {inputs.scores, &v1::Inputs::mutable_scores},
             {inputs.projected_norms, &v1::Inputs::mutable_projected_norms},
             {inputs.query_mean, &v1::Inputs::mutable_query_mean},
             {inputs.query_covariance, &v1::Inputs::mutable_query_covariance}};
  for (const auto& [offset, input] : all) {
    if (offset) (item.mutable_inputs()->*input)()->set_offset(*offset);
  }
}

void FillWord(const Word& word, v1::Word& out) {
  out.set_slot(word.slot);
  out.set_value(word.value);
}

// What an eviction and an observation have in common.
template <class Options, class Item>
void FillCommon(const Options& options, Item& item) {
  item.set_policy(options.policy);
  if (options.budget_tokens) item.set_budget_tokens(*options.budget_tokens);
  if (options.budget_ppm) item.set_budget_ppm(*options.budget_ppm);
  if (options.budget_bytes) item.set_budget_bytes(*options.budget_bytes);
  FillInputs(options.inputs, item);
  if (options.ready) FillWord(*options.ready, *item.mutable_ready());
  if (options.done) FillWord(*options.done, *item.mutable_done());
  if (options.window.rows == 0) return;
  v1::Window& window = *item.mutable_window();
  window.set_rows(options.window.rows);
  window.set_dtype(static_cast<v1::DType>(options.window.dtype));
  window.set_slot(options.window.slot);
  window.mutable_positions()->Assign(options.window.positions.begin(), options.window.positions.end());
}

}  // namespace

absl::Status Fill(const EvictOptions& options, v1::EvictSequence& item) {
  if (const int budgets = Budgets(options); budgets != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("EvictOptions has ", budgets, " budgets: set one of budget_tokens, budget_ppm and budget_bytes"));
  }
  FillCommon(options, item);
  if (options.if_version) item.set_if_version(*options.if_version);
  item.set_lazy(options.lazy);
  item.set_plan_only(options.plan_only);
  item.set_export_plan(options.export_plan);
  item.set_export_scores(options.export_scores);
  return absl::OkStatus();
}

absl::Status Fill(const ObserveOptions& options, v1::ObserveSequence& item) {
  if (const int budgets = Budgets(options); budgets > 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "ObserveOptions has ", budgets, " budgets: set at most one of budget_tokens, budget_ppm and budget_bytes"));
  }
  FillCommon(options, item);
  return absl::OkStatus();
}

Evicted ToEvicted(const v1::EvictedSequence& reply) {
  Evicted evicted;
  evicted.no_op = reply.no_op();
  evicted.budget_tokens = reply.budget_tokens();
  evicted.lengths.assign(reply.lengths().begin(), reply.lengths().end());
  evicted.kept.assign(reply.kept().begin(), reply.kept().end());
  evicted.blocks_freed = reply.blocks_freed();
  evicted.bytes_evicted = reply.bytes_evicted();
  evicted.bytes_returned = reply.bytes_returned();
  evicted.version = reply.version();
  evicted.unsplit_layers = reply.unsplit_layers();
  evicted.planned_on_host = reply.planned_on_host();
  evicted.queue_us = reply.queue_us();
  evicted.score_us = reply.score_us();
  evicted.select_us = reply.select_us();
  evicted.compact_us = reply.compact_us();
  return evicted;
}

}  // namespace kvsteward
