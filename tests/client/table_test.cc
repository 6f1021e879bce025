// Reading tables and plans from hand-made memory.
#include "client/cpp/table.h"

#include <cstring>
#include <numeric>
#include <vector>

#include "gtest/gtest.h"

namespace kvsteward {
namespace {

constexpr uint32_t kUnits = 3;
constexpr uint32_t kCapacity = 5;
constexpr uint64_t kOffset = 128;

class Table : public ::testing::Test {
 protected:
  Table() : chunk_((kOffset + kvs_table_bytes(kUnits, kCapacity)) / 64) {
    kvs_sequence_table& header = *table();
    header.magic = KVS_SHM_MAGIC;
    header.units = kUnits;
    header.row_capacity = kCapacity;
    header.row_stride = kvs_row_stride(kCapacity);
    header.rows_offset = kvs_rows_offset(kUnits);
  }

  struct alignas(64) Line {
    std::byte bytes[64];
  };
  std::span<std::byte> chunk() { return {chunk_[0].bytes, chunk_.size() * 64}; }
  kvs_sequence_table* table() { return reinterpret_cast<kvs_sequence_table*>(chunk().data() + kOffset); }
  uint64_t& word(uint32_t unit) { return *const_cast<uint64_t*>(kvs_unit_word(table(), unit)); }
  kvs_row& row(uint32_t unit, uint32_t slot) { return *const_cast<kvs_row*>(kvs_row_slot(table(), unit, slot)); }
  absl::StatusOr<SequenceTable> Open() { return SequenceTable::Open(chunk(), kOffset, kUnits); }

  std::vector<Line> chunk_;
};

TEST_F(Table, ShowsTheValidRow) {
  kvs_row& old_row = row(1, 0);
  kvs_row& new_row = row(1, 1);
  old_row = {.row_len = 40, .base_tokens = 40, .blocks = 3, .reserved = 0};
  new_row = {.row_len = 10, .base_tokens = 40, .blocks = 2, .reserved = 0};
  std::iota(old_row.block, old_row.block + 3, 7u);
  std::iota(new_row.block, new_row.block + 2, 70u);
  auto open = Open();
  ASSERT_TRUE(open.ok()) << open.status();
  word(1) = 8;  // even: slot 0
  EXPECT_EQ(open->Current(1).row_len, 40u);
  EXPECT_EQ(open->Current(1).blocks.size(), 3u);
  EXPECT_EQ(open->Current(1).blocks[2], 9u);
  word(1) = 11;
  EXPECT_EQ(open->Current(1).row_len, 10u);
  EXPECT_EQ(open->Current(1).blocks[1], 71u);
  EXPECT_EQ(open->Current(0).blocks.size(), 0u);
}

TEST_F(Table, CountsResidents) {
  row(0, 0) = {.row_len = 10, .base_tokens = 40, .blocks = 2, .reserved = 0};
  auto open = Open();
  ASSERT_TRUE(open.ok());
  EXPECT_EQ(open->Current(0).Residents(40), 10u);
  EXPECT_EQ(open->Current(0).Residents(45), 15u);
  EXPECT_EQ(open->Current(0).Residents(1000), 32u);  // no more than its blocks hold
  EXPECT_EQ(open->Current(0).Residents(3), 10u);     // fewer than it began with
}

TEST_F(Table, GarbageStaysWithinTheCapacity) {
  auto open = Open();
  ASSERT_TRUE(open.ok());
  std::memset(chunk().data() + kOffset, 0xff, chunk().size() - kOffset);  // header included
  for (uint32_t unit = 0; unit < kUnits; ++unit) {
    const SequenceTable::Row garbage = open->Current(unit);
    EXPECT_EQ(garbage.blocks.size(), kCapacity);
    EXPECT_EQ(garbage.row_len, kCapacity * KVS_BLOCK_TOKENS);
    EXPECT_EQ(garbage.Residents(~0u), kCapacity * KVS_BLOCK_TOKENS);
    const auto* end = reinterpret_cast<const std::byte*>(garbage.blocks.data() + garbage.blocks.size());
    EXPECT_LE(end, chunk().data() + chunk().size());
  }
}

TEST_F(Table, RefusesWhatIsNoTable) {
  const kvs_sequence_table good = *table();
  const auto refused = [&](auto change) {
    *table() = good;
    change(*table());
    return Open().status().code() == absl::StatusCode::kInternal;
  };
  EXPECT_TRUE(refused([](kvs_sequence_table& t) { t.magic = 0; }));
  EXPECT_TRUE(refused([](kvs_sequence_table& t) { t.units = kUnits + 1; }));
  EXPECT_TRUE(refused([](kvs_sequence_table& t) { t.row_capacity += 16; }));
  EXPECT_TRUE(refused([](kvs_sequence_table& t) { t.row_stride += 64; }));
  EXPECT_TRUE(refused([](kvs_sequence_table& t) { t.rows_offset += 64; }));
  EXPECT_TRUE(refused([](kvs_sequence_table& t) {
    t.row_capacity = ~0u;
    t.row_stride = kvs_row_stride(~0u);
  }));
  EXPECT_TRUE(refused([](kvs_sequence_table& t) {  // consistent, but larger than the chunk
    t.row_capacity = 1000;
    t.row_stride = kvs_row_stride(1000);
  }));
  EXPECT_FALSE(refused([](kvs_sequence_table&) {}));
}

TEST_F(Table, RefusesPlacesOutsideOfTheChunk) {
  for (const uint64_t offset : {uint64_t{129}, uint64_t{kOffset + 64}, uint64_t{chunk().size()},
                                uint64_t{chunk().size()} - 32, ~uint64_t{63}, ~uint64_t{0}}) {
    EXPECT_FALSE(SequenceTable::Open(chunk(), offset, kUnits).ok()) << offset;
  }
  EXPECT_FALSE(SequenceTable::Open({}, 0, kUnits).ok());
}

// ---- Plans
// -----------------------------------------------------------------------------------------------------------

class Plan : public ::testing::Test {
 protected:
  static constexpr uint64_t kAt = 192;
  static constexpr uint64_t kBytes = 512;

  Plan() {
    plan() = {.magic = KVS_SHM_MAGIC,
              .units = 2,
              .sequence = 9,
              .bytes = kBytes,
              .budget_tokens = 3,
              .no_op = 0,
              .reserved = {}};
    unit(0) = {.residents = 70, .kept = 3, .mask_offset = 128, .indices_offset = 144, .scores_offset = 232};
    unit(1) = {.residents = 5, .kept = 3, .mask_offset = 160, .indices_offset = 168, .scores_offset = 0};
  }
  kvs_plan& plan() { return *reinterpret_cast<kvs_plan*>(region_ + kAt); }
  kvs_unit_plan& unit(uint32_t u) { return *const_cast<kvs_unit_plan*>(kvs_unit_plan_of(&plan(), u)); }
  bool Good(uint64_t offset = kAt, uint64_t bytes = kBytes) {
    return OpenPlan(region_, offset, bytes, 9, lengths_, kept_).ok();
  }

  alignas(64) std::byte region_[1024] = {};
  std::vector<uint32_t> lengths_ = {70, 5};
  std::vector<uint32_t> kept_ = {3, 3};
};

TEST_F(Plan, Opens) {
  auto open = OpenPlan(region_, kAt, kBytes, 9, lengths_, kept_);
  ASSERT_TRUE(open.ok()) << open.status();
  EXPECT_EQ(*open, &plan());
}

TEST_F(Plan, RefusesPlacesOutsideOfTheRegion) {
  EXPECT_FALSE(Good(kAt + 1));
  EXPECT_FALSE(Good(kAt, 1024));
  EXPECT_FALSE(Good(~uint64_t{63}));
  EXPECT_FALSE(Good(kAt, ~uint64_t{0}));
  EXPECT_FALSE(Good(kAt, 100));  // does not hold the units
  EXPECT_FALSE(OpenPlan({}, 0, kBytes, 9, lengths_, kept_).ok());
}

TEST_F(Plan, RefusesAnotherPlan) {
  for (const auto change :
       {+[](kvs_plan& p) { p.magic = 0; }, +[](kvs_plan& p) { p.units = 3; }, +[](kvs_plan& p) { p.sequence = 8; },
        +[](kvs_plan& p) { p.bytes = kBytes + 1; }, +[](kvs_plan& p) { p.bytes = 64; }}) {
    const kvs_plan good = plan();
    change(plan());
    EXPECT_FALSE(Good());
    plan() = good;
  }
  EXPECT_TRUE(Good());
}

TEST_F(Plan, RefusesListsOutsideOfThePlan) {
  for (const auto change :
       {+[](kvs_unit_plan& u) { u.residents = 71; }, +[](kvs_unit_plan& u) { u.kept = 4; },
        +[](kvs_unit_plan& u) { u.mask_offset = 504; }, +[](kvs_unit_plan& u) { u.mask_offset = 129; },
        +[](kvs_unit_plan& u) { u.mask_offset = ~uint64_t{7}; }, +[](kvs_unit_plan& u) { u.indices_offset = 504; },
        +[](kvs_unit_plan& u) { u.indices_offset = 146; }, +[](kvs_unit_plan& u) { u.scores_offset = 236; },
        +[](kvs_unit_plan& u) { u.scores_offset = ~uint64_t{3}; }}) {
    const kvs_unit_plan good = unit(0);
    change(unit(0));
    EXPECT_FALSE(Good());
    unit(0) = good;
  }
  EXPECT_TRUE(Good());
}

}  // namespace
}  // namespace kvsteward
