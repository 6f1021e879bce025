// The fields of every stage: the names that users write, which kinds of the stage have them, and what they may be. The
// one list that the reader, the printer and the validation walk. Stateless.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <type_traits>

#include "kernels/policy/decimal.h"
#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {

struct Field {
  const char* name;
  bool has = true;      // whether this kind of the stage has the field; if not, it keeps its default
  bool option = false;  // of the stage rather than of one kind: printed only where it differs from its default
  int64_t least = 0;    // of a number, or of each of a list; decimals in ppm, as the field
  int64_t most = std::numeric_limits<int64_t>::max();
  bool odd = false;
};

// "from 0 to 1" or "at least 0": what a field whose values are of type T may be.
template <class T>
std::string RangeOf(const Field& field) {
  const auto limit = [](int64_t number) {
    return std::is_same_v<T, int64_t> ? PrintDecimal(number, 6) : std::to_string(number);
  };
  if (field.most == std::numeric_limits<int64_t>::max()) return "at least " + limit(field.least);
  return "from " + limit(field.least) + " to " + limit(field.most);
}

inline constexpr int32_t kMaxPool = 4095;
inline constexpr int32_t kMaxRowPool = 33;
inline constexpr int64_t kMaxGainPpm = 1000 * kPpm;    // beyond it logits of a real model leave float's range
inline constexpr int64_t kMaxWeightPpm = kPpm * kPpm;  // of gamma and of a layer in a table

// visit(field, member) for every field of `stage`, in the order of print. int64_t members are decimals in ppm;
// std::invoke(member, stage) is the field's value.

template <class F>
void VisitFields(const Signal& s, F&& visit) {
  visit(Field{.name = "g_min", .has = s.kind == Signal::Kind::kStepGainSoftmax, .most = kMaxGainPpm},
        &Signal::g_min_ppm);
  visit(Field{.name = "exponent", .has = s.kind == Signal::Kind::kPower, .least = 1, .most = 4 * kPpm},
        &Signal::exponent_ppm);
  visit(Field{.name = "over", .has = s.windowed(), .option = true}, &Signal::over);
}

template <class F>
void VisitFields(const Accumulate& s, F&& visit) {
  visit(Field{.name = "gamma", .has = s.kind == Accumulate::Kind::kMeanVar, .most = kMaxWeightPpm},
        &Accumulate::gamma_ppm);
  visit(Field{.name = "decay", .has = s.kind == Accumulate::Kind::kRunning, .most = kPpm}, &Accumulate::decay_ppm);
  visit(Field{.name = "row_pool", .option = true, .least = 1, .most = kMaxRowPool, .odd = true}, &Accumulate::row_pool);
}

template <class F>
void VisitFields(const Group&, F&& visit) {
  visit(Field{.name = "span", .option = true}, &Group::span);
  visit(Field{.name = "place", .option = true}, &Group::place);
}

template <class F>
void VisitFields(const Refinement& s, F&& visit) {
  using Kind = Refinement::Kind;
  const bool prior = s.kind == Kind::kValuePrior;
  visit(Field{.name = "norm", .has = prior || s.kind == Kind::kValueScale}, &Refinement::norm);
  visit(Field{.name = "pool",
              .has = prior || s.kind == Kind::kMaxPool || s.kind == Kind::kAvgPool,
              .least = 1,
              .most = kMaxPool,
              .odd = true},
        &Refinement::pool);
  visit(Field{.name = "edge", .has = prior || s.kind == Kind::kAvgPool}, &Refinement::edge);
  visit(Field{.name = "scale", .has = prior}, &Refinement::scale);
}

template <class F>
void VisitFields(const Protect&, F&& visit) {
  visit(Field{.name = "sinks"}, &Protect::sinks);
  visit(Field{.name = "recent"}, std::identity());  // two members make this one, so its value is the stage
  visit(Field{.name = "classes", .option = true, .most = 255}, &Protect::classes);
  visit(Field{.name = "mass", .option = true, .most = kPpm}, &Protect::mass_ppm);
}

template <class F>
void VisitFields(const LayerBudget& s, F&& visit) {
  visit(Field{.name = "weights", .has = s.kind == LayerBudget::Kind::kTable, .most = kMaxWeightPpm},
        &LayerBudget::table_ppm);
  visit(Field{.name = "beta", .has = s.kind == LayerBudget::Kind::kPyramid, .least = kPpm}, &LayerBudget::beta_ppm);
}

template <class F>
void VisitFields(const HeadBudget& s, F&& visit) {
  using Kind = HeadBudget::Kind;
  visit(Field{.name = "alpha", .has = s.kind == Kind::kAdaFloor || s.kind == Kind::kAdaBlend, .most = kPpm},
        &HeadBudget::alpha_ppm);
  visit(Field{.name = "fractions", .has = s.kind == Kind::kTable, .most = kPpm}, &HeadBudget::table_ppm);
  visit(Field{.name = "mass", .has = s.kind == Kind::kCheapest, .most = kPpm}, &HeadBudget::mass_ppm);
  visit(Field{.name = "full_heads", .has = s.kind == Kind::kSplit, .least = 1}, &HeadBudget::full_heads);
}

template <class F>
void VisitFields(const Select& s, F&& visit) {
  using Kind = Select::Kind;
  visit(Field{.name = "fraction", .has = s.kind == Kind::kTopKRandom || s.kind == Kind::kTwoStage, .most = kPpm},
        &Select::fraction_ppm);
  visit(Field{.name = "seed", .has = s.kind == Kind::kTopKRandom}, &Select::seed);
  visit(Field{.name = "share", .has = s.kind == Kind::kTwoLists, .most = kPpm}, &Select::share_ppm);
}

}  // namespace kvsteward::engine
