#include "kernels/policy/combinations.h"

#include "kernels/policy/decimal.h"
#include "kernels/policy/names.h"

namespace kvsteward::engine {
namespace {

std::string Item(size_t i) { return "refine[" + std::to_string(i) + "]"; }

// Signals that are not made of query rows have nothing to accumulate, and most nothing to group.
absl::Status ValidateSignal(const Policy& p) {
  const std::string signal = "with the signal " + NameOf(p.signal.kind);
  if (!p.signal.windowed()) {
    const std::string why = "absent: " + signal + " no query rows are read";
    if (p.window != Policy().window) {
      return WrongField("window", p.window == 0 ? "all" : std::to_string(p.window), why);
    }
    if (p.accumulate.kind != Accumulate::Kind::kSum) return WrongField("accumulate", NameOf(p.accumulate.kind), why);
    if (p.accumulate.row_pool != 1)
      return WrongField("accumulate.row_pool", std::to_string(p.accumulate.row_pool), why);
  }
  if (!p.signal.windowed() && p.signal.kind != Signal::Kind::kExpected) {
    const std::string why = ": " + signal + " there is one score per kv head";
    if (p.group.place != Group::Place::kBeforeRefine) {
      return WrongField("group.place", NameOf(p.group.place), "before_refine" + why);
    }
    if (p.group.span == Group::Span::kGroup && p.group.kind != Group::Kind::kMean) {
      return WrongField("group", NameOf(p.group.kind), "absent, or of span layer" + why);
    }
  }
  if (p.signal.kind == Signal::Kind::kNone) {
    const std::string why = ": " + signal + " a score is a position";
    if (p.group.span != Group::Span::kGroup) return WrongField("group.span", NameOf(p.group.span), "group" + why);
    if (!p.refine.empty()) {
      return WrongField("refine", "a list of " + std::to_string(p.refine.size()),
                        "empty" + why + ", which has nothing to refine");
    }
  }
  return absl::OkStatus();
}

// Running scores are stored after the grouping, one per kv head, and stand for all rows there ever were.
absl::Status ValidateRunning(const Policy& p) {
  if (!p.running()) return absl::OkStatus();
  const std::string with = " with accumulate running";
  if (p.window != 0) return WrongField("window", std::to_string(p.window), "all" + with + ": every row counts once");
  if (p.group.kind == Group::Kind::kMax) {
    return WrongField("group", "max", "mean or sum" + with + ": grouped scores are what is stored");
  }
  if (p.group.place == Group::Place::kAfterRefine) {
    return WrongField("group.place", "after_refine", "before_refine" + with + ": grouped scores are what is stored");
  }
  return absl::OkStatus();
}

// What is protected must leave room for itself: recent tokens that take all of the budget, or all but fewer tokens than
// there are sinks, fit no budget.
absl::Status ValidateProtect(const Policy& p) {
  const Protect& protect = p.protect;
  const bool classes = !protect.classes.empty();
  if (protect.recent_kind == Protect::Recent::kBudgetMinus &&
      (protect.sinks > protect.recent || (classes && protect.sinks == protect.recent))) {
    return WrongField("protect.recent", "k - " + std::to_string(protect.recent),
                      "k less the " + std::to_string(protect.sinks) + " sinks" +
                          (classes ? " and what the classes protect" : "") + ", or fewer recent tokens");
  }
  if (protect.recent_kind == Protect::Recent::kBudgetOver && protect.recent == 1 && (protect.sinks > 0 || classes)) {
    return WrongField("protect.recent", "k / 1", "k / 2 or fewer recent tokens: sinks and classes are kept besides");
  }
  return absl::OkStatus();
}

// Pins and two of the head budgets read the mean attention of the window.
absl::Status ValidateAttention(const Policy& p) {
  if (!p.reads_attention()) return absl::OkStatus();
  const bool pins = p.protect.mass_ppm > 0;
  const std::string field = pins ? "protect.mass" : "head";
  const std::string value = pins ? PrintDecimal(p.protect.mass_ppm, 6) : NameOf(p.head.kind);
  const std::string instead = pins ? "0" : "uniform, ada_floor, ada_blend or table";
  if (p.signal.kind != Signal::Kind::kSoftmax && p.signal.kind != Signal::Kind::kStepGainSoftmax &&
      p.signal.kind != Signal::Kind::kSoftmax1) {
    return WrongField(field, value,
                      instead + " with the signal " + NameOf(p.signal.kind) +
                          ": it reads attention, which softmax, sg_softmax and softmax1 give");
  }
  if (p.running()) {
    return WrongField(field, value, instead + " with accumulate running: it reads the attention of one window");
  }
  return absl::OkStatus();
}

absl::Status ValidateRefinements(const Policy& p) {
  using Kind = Refinement::Kind;
  for (size_t i = 0; i < p.refine.size(); ++i) {
    const Refinement& r = p.refine[i];
    const bool reads_norm = r.kind == Kind::kValuePrior || r.kind == Kind::kValueScale;
    if (reads_norm && (r.norm == Norm::kL1) != (p.norm() == Norm::kL1)) {
      return WrongField(Item(i) + ".norm", NameOf(r.norm),
                        std::string(p.norm() == Norm::kL1 ? "l1" : "l2 or l2sq") +
                            " like that of the refinements before it: one kind of norm is kept per token");
    }
    if (p.group.place == Group::Place::kAfterRefine && (r.kind == Kind::kClampToMean || r.kind == Kind::kMassRatio)) {
      return WrongField(Item(i), NameOf(r.kind),
                        "max_pool, avg_pool, value_prior or value_scale with group.place after_refine");
    }
    if (p.group.span == Group::Span::kLayer && r.kind == Kind::kValueScale) {
      return WrongField(Item(i), "value_scale",
                        "another refinement with group.span layer: there is one score row for all heads of a layer");
    }
    if (p.group.span == Group::Span::kLayer && r.kind == Kind::kValuePrior && r.scale == Refinement::Scale::kHeads) {
      return WrongField(Item(i) + ".scale", "heads",
                        "max, mean or none with group.span layer: norms are the mean over the heads already");
    }
  }
  return absl::OkStatus();
}

// One score row, and so one kept set, for all heads of a layer.
absl::Status ValidateSpan(const Policy& p) {
  if (p.group.span != Group::Span::kLayer) return absl::OkStatus();
  const std::string why = " with group.span layer: all heads of a layer keep the same tokens";
  if (p.layer.kind == LayerBudget::Kind::kGlobal) {
    return WrongField("layer", "global", "uniform, table, pyramid, entropy or equal_mass" + why);
  }
  if (p.head.kind != HeadBudget::Kind::kUniform) return WrongField("head", NameOf(p.head.kind), "uniform" + why);
  if (p.select.kind == Select::Kind::kTwoStage || p.select.kind == Select::Kind::kBlock) {
    return WrongField("select", NameOf(p.select.kind), "top_k, top_k_random or two_lists" + why);
  }
  return absl::OkStatus();
}

absl::Status ValidateTwoLists(const Policy& p) {
  if (p.select.kind != Select::Kind::kTwoLists) return absl::OkStatus();
  const std::string with = " with select two_lists";
  const std::string why = with + ": rows of one's own and of other classes are added up apart";
  if (!p.signal.windowed()) {
    return WrongField("signal", NameOf(p.signal.kind), "softmax, sg_softmax, power or softmax1" + why);
  }
  if (p.accumulate.kind != Accumulate::Kind::kSum && p.accumulate.kind != Accumulate::Kind::kMean) {
    return WrongField("accumulate", NameOf(p.accumulate.kind), "sum or mean" + why);
  }
  if (p.group.kind == Group::Kind::kMax) return WrongField("group", "max", "mean or sum" + why);
  if (p.group.place == Group::Place::kAfterRefine) {
    return WrongField("group.place", "after_refine", "before_refine" + with + ", which refines nothing");
  }
  if (!p.refine.empty()) {
    return WrongField("refine", "a list of " + std::to_string(p.refine.size()),
                      "empty" + with + ": a token's two scores are compared as they are");
  }
  return absl::OkStatus();
}

absl::Status ValidateBudgets(const Policy& p) {
  const bool floors = p.head.kind == HeadBudget::Kind::kAdaFloor;
  if (p.layer.kind == LayerBudget::Kind::kGlobal) {
    if (!floors) {
      return WrongField("head", NameOf(p.head.kind),
                        "ada_floor with layer global: the joint selection over all layers has its floors");
    }
    if (p.select.kind == Select::Kind::kBlock) {
      return WrongField("select", "block",
                        "top_k, top_k_random, two_stage or two_lists with layer global: blocks are priced by layer");
    }
  }
  if (p.select.kind == Select::Kind::kBlock && !floors) {
    return WrongField("head", NameOf(p.head.kind), "ada_floor with select block: blocks are freed down to its floors");
  }
  if (p.layer.kind == LayerBudget::Kind::kTable && p.head.kind == HeadBudget::Kind::kTable &&
      p.layer.table_ppm.size() != p.head.table_ppm.size()) {
    return WrongField("head.fractions", "a list of " + std::to_string(p.head.table_ppm.size()),
                      "a list of " + std::to_string(p.layer.table_ppm.size()) + ", a layer each, like layer.weights");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status WrongField(const std::string& field, const std::string& value, const std::string& allowed) {
  return absl::InvalidArgumentError(field + " is " + value + "; it must be " + allowed);
}

absl::Status ValidateCombination(const Policy& policy) {
  for (const auto rule : {ValidateSignal, ValidateRunning, ValidateProtect, ValidateAttention, ValidateRefinements,
                          ValidateSpan, ValidateTwoLists, ValidateBudgets}) {
    if (absl::Status status = rule(policy); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace kvsteward::engine
