// A sequence in paged memory beside its plain twin, for tests of an engine. All memory that holds no resident token is
// poison: NaN in K, V, norms and running scores, nonsense in positions. Thread-compatible.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory_resource>
#include <random>
#include <string>
#include <vector>

#include "base/run.h"
#include "kvsteward/engine/engine.h"
#include "kvsteward/engine/plan.h"
#include "tests/kernels/encoding.h"
#include "tests/reference/reference.h"

namespace kvsteward::engine {

// A sequence's contents. Every number is exact in its dtype; what the caller supplies beside the window, and running
// scores, are f32.
struct PlainSequence {
  reference::Sequence contents;
  DType dtype = DType::kF32;
  DType query_dtype = DType::kF32;
  int64_t seen = 0;
  std::vector<int32_t> stored;  // [units] tokens whose positions are given; what follows has been appended since
};

// What comes with one call: the window, and what else the caller supplies.
struct Request {
  reference::Row queries;
  std::vector<int64_t> row_positions;
  reference::Inputs inputs;
};

// How blocks are laid out. Plans may not depend on it.
enum class Placement { kContiguous, kScattered };

class PagedSequence {
 public:
  // `memory` must be readable by the engine and outlive this.
  PagedSequence(PlainSequence plain, Placement placement, uint32_t seed,
                std::pmr::memory_resource* memory = std::pmr::get_default_resource());

  const PlainSequence& plain() const { return plain_; }
  // Valid until the next call that changes the sequence.
  SequenceView View();
  const PoolView& pool() const { return pool_; }
  const UnitView& unit(size_t u) const { return units_[u]; }
  // Where resident `j` lies in the pool's side arrays.
  size_t SlotOf(size_t u, int32_t j) const;

  void SetRequest(Request request);
  // Notes that every resident's norm of the kind is cached.
  void MarkNormed(Norm kind);
  // Notes that the window's rows are in the pool's running scores: they become the twin's.
  void MarkObserved();
  // Compacts unit by unit with `engine` as the plan says, and frees the blocks that were left. Fails the test unless
  // cached norms and running scores move with their tokens.
  void Compact(Engine& engine, const Plan& plan);
  // Appends the tokens [units] at the next positions; every unit gets as many. What the request brought is void then.
  void Append(const std::vector<reference::Unit>& tokens);

  // Overwrites one number: component `x` of K or V of a resident, or of a query.
  void SetKey(size_t u, int32_t j, int32_t x, double value);
  void SetValue(size_t u, int32_t j, int32_t x, double value);
  void SetQuery(int32_t layer, int32_t head, int32_t row, int32_t x, double value);
  void EditInputs(const std::function<void(reference::Inputs&)>& edit);
  // Makes NaN of all K, V, queries, running scores and inputs but classes.
  void PoisonEverything();

  // Fails the test unless memory holds exactly the plain twin's tokens, at its positions.
  void ExpectMemoryEqualsPlain();
  // Every byte but norms that the engine could write, to see that it did not.
  std::string Snapshot() const;

 private:
  std::vector<Run> Allocate(uint32_t blocks);
  void Free(const std::vector<Run>& row);
  std::byte* TokenIn(size_t u, int32_t j, bool value);
  void StoreToken(size_t u, int32_t j);
  void StoreRequest();

  PlainSequence plain_;
  Geometry geometry_;
  Placement placement_;
  std::mt19937 random_;
  Norm normed_kind_ = Norm::kL2Squared;
  std::pmr::vector<std::byte> data_;
  std::pmr::vector<int32_t> positions_;
  std::pmr::vector<float> norms_;
  std::pmr::vector<float> running_;
  std::pmr::vector<std::byte> queries_;
  std::pmr::vector<int32_t> row_positions_;
  std::pmr::vector<uint8_t> classes_;
  std::pmr::vector<float> scores_;
  std::pmr::vector<float> projected_norms_;
  std::pmr::vector<float> query_mean_;
  std::pmr::vector<float> query_covariance_;
  PoolView pool_;
  std::vector<std::vector<Run>> rows_;  // [units]
  std::vector<UnitView> units_;
  std::vector<bool> used_;  // [blocks]
};

}  // namespace kvsteward::engine
