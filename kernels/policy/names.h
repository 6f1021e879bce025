// What a user writes for the enumerators of a policy: arrays in the enumerators' order; and how messages quote a user.
// Stateless; thread-safe.
#pragma once

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <string_view>

#include "kvsteward/engine/policy.h"

namespace kvsteward::engine {

template <class E>
inline constexpr int kNames = 0;
template <>
inline constexpr auto kNames<Signal::Kind> = std::to_array<std::string_view>({"none", "submitted", "softmax",
                                                                              "sg_softmax", "power", "softmax1",
                                                                              "key_difference", "expected"});
template <>
inline constexpr auto kNames<Signal::Over> = std::to_array<std::string_view>({"visible", "candidates"});
template <>
inline constexpr auto kNames<Accumulate::Kind> = std::to_array<std::string_view>({"sum", "mean", "max", "mean_var",
                                                                                  "running"});
template <>
inline constexpr auto kNames<Group::Kind> = std::to_array<std::string_view>({"mean", "max", "sum"});
template <>
inline constexpr auto kNames<Group::Span> = std::to_array<std::string_view>({"group", "layer"});
template <>
inline constexpr auto kNames<Group::Place> = std::to_array<std::string_view>({"before_refine", "after_refine"});
template <>
inline constexpr auto kNames<Norm> = std::to_array<std::string_view>({"l2sq", "l2", "l1"});
template <>
inline constexpr auto kNames<Refinement::Kind> = std::to_array<std::string_view>({"max_pool", "avg_pool", "value_prior",
                                                                                  "value_scale", "clamp_to_mean",
                                                                                  "mass_ratio"});
template <>
inline constexpr auto kNames<Refinement::Edge> = std::to_array<std::string_view>({"padded", "valid"});
template <>
inline constexpr auto kNames<Refinement::Scale> = std::to_array<std::string_view>({"max", "mean", "none", "heads"});
template <>
inline constexpr auto kNames<LayerBudget::Kind> = std::to_array<std::string_view>({"uniform", "table", "pyramid",
                                                                                   "entropy", "equal_mass", "global"});
template <>
inline constexpr auto kNames<HeadBudget::Kind> = std::to_array<std::string_view>({"uniform", "ada_floor", "ada_blend",
                                                                                  "table", "cheapest", "split"});
template <>
inline constexpr auto kNames<Select::Kind> = std::to_array<std::string_view>({"top_k", "top_k_random", "two_stage",
                                                                              "two_lists", "block"});

template <class E>
std::string NameOf(E value) {
  return std::string(kNames<E>[static_cast<size_t>(value)]);
}

template <class E>
std::optional<E> Named(std::string_view name) {
  const auto at = std::find(kNames<E>.begin(), kNames<E>.end(), name);
  if (at == kNames<E>.end()) return std::nullopt;
  return static_cast<E>(at - kNames<E>.begin());
}

// "mean, max, sum"
template <class E>
std::string AllNames() {
  std::string all;
  for (const std::string_view name : kNames<E>) all.append(all.empty() ? "" : ", ").append(name);
  return all;
}

// How a user writes protect.recent: `32`, `k - 4` or `k / 2`.
inline std::string RecentOf(const Protect& protect) {
  const char* of_budget = protect.recent_kind == Protect::Recent::kBudgetMinus  ? "k - "
                          : protect.recent_kind == Protect::Recent::kBudgetOver ? "k / "
                                                                                : "";
  return of_budget + std::to_string(protect.recent);
}

// What a user wrote, fit for one line of a message.
inline std::string Quoted(const std::string& text) {
  constexpr size_t kMost = 64;
  std::string quoted = text.substr(0, kMost);
  for (char& c : quoted) c = c >= ' ' && c <= '~' ? c : '?';
  return "'" + quoted + (text.size() > kMost ? "..." : "") + "'";
}

}  // namespace kvsteward::engine
