// A sequence in paged memory beside its plain twin, for tests of an engine. All memory that holds no resident token is
// poison: NaN in K, V and norms, nonsense in positions. Thread-compatible.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory_resource>
#include <random>
#include <vector>

#include "base/run.h"
#include "kvsteward/engine/engine.h"
#include "tests/reference/reference.h"

namespace kvsteward::engine {

// `value` as `dtype` stores it.
double Rounded(DType dtype, double value);
void Encode(DType dtype, double value, std::byte* to);
double Decode(DType dtype, const std::byte* from);

// The policy as the reference reads it.
reference::Policy MirrorOf(const Policy& policy);

// A sequence's contents. Every number is exact in its dtype.
struct PlainSequence {
  reference::Sequence contents;
  DType dtype = DType::kF32;
  DType query_dtype = DType::kF32;
  int64_t seen = 0;
  std::vector<int32_t> stored;  // [units] tokens whose positions are given; what follows has been appended since
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

  // Notes that every resident's norm is cached.
  void MarkNormed();
  // Compacts unit by unit with `engine` as the plan says, and frees the blocks that were left.
  void Compact(Engine& engine, const Plan& plan);
  // Appends `tokens` to each unit, at the next positions, and gives the window new rows. Numbers come from `draw`.
  void Append(int32_t tokens, const std::function<double()>& draw);

  // Overwrites one number: component `x` of K or V of a resident, or of a query.
  void SetKey(size_t u, int32_t j, int32_t x, double value);
  void SetValue(size_t u, int32_t j, int32_t x, double value);
  void SetQuery(int32_t layer, int32_t head, int32_t row, int32_t x, double value);
  // Makes NaN of all K, V and queries.
  void PoisonEverything();

  // Fails the test unless memory holds exactly the plain twin's tokens, at its positions.
  void ExpectMemoryEqualsPlain();
  // Every byte the engine could write, to see that it did not.
  std::vector<std::byte> Snapshot() const;

 private:
  std::vector<Run> Allocate(uint32_t blocks);
  void Free(const std::vector<Run>& row);
  std::byte* TokenIn(size_t u, int32_t j, bool value);
  size_t SlotOf(size_t u, int32_t j) const;
  void StoreToken(size_t u, int32_t j);
  void StoreQueries();

  PlainSequence plain_;
  Geometry geometry_;
  Placement placement_;
  std::mt19937 random_;
  std::pmr::vector<std::byte> data_;
  std::pmr::vector<int32_t> positions_;
  std::pmr::vector<float> norms_;
  std::pmr::vector<std::byte> queries_;
  std::pmr::vector<int32_t> row_positions_;
  PoolView pool_;
  std::vector<std::vector<Run>> rows_;  // [units]
  std::vector<UnitView> units_;
  std::vector<bool> used_;  // [blocks]
};

}  // namespace kvsteward::engine
