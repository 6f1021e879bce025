// Two live leases with a sequence each, and calls whose fields only the sidecar's state can refuse. Each refusal has
// its exact code and a sentence that names the field, and leaves every book, every lease and the other lease's sequence
// as they were.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/rpc/calls.h"
#include "tests/rpc/raw_worker.h"
#include "tests/rpc/rig.h"

namespace kvsteward::rpc {

inline constexpr uint64_t kMost = ~uint64_t{0};
inline constexpr uint32_t kBillion = 1u << 30;
inline constexpr uint64_t kOurs = 1;               // the worker's sequence
inline constexpr uint64_t kTheirs = 2;             // the other worker's
inline constexpr char kBlind[] = "streaming-llm";  // a policy that reads no queries

// Two live leases, each with a sequence of 64 tokens at most of which 20 are reserved: two blocks in each of 4 units.
class StateFieldTest : public ::testing::Test {
 protected:
  StateFieldTest() : worker_(rig_.fd_path(), rig_.Workers()), other_(rig_.fd_path(), rig_.Workers()) {}

  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(worker_.Start());
    ASSERT_NO_FATAL_FAILURE(other_.Start());
    ASSERT_NO_FATAL_FAILURE(Accepted(Create(worker_, kOurs, 64, &ours_)));
    ASSERT_NO_FATAL_FAILURE(Accepted(Create(other_, kTheirs, 64, &theirs_)));
    ASSERT_NO_FATAL_FAILURE(Accepted(Reserve(worker_, Room(kOurs, 20))));
    ASSERT_NO_FATAL_FAILURE(Accepted(Reserve(other_, Room(kTheirs, 20))));
  }

  static void Accepted(const Said& said) { ASSERT_EQ(said.code, 0u) << said.message; }

  // The other sequence's table as its worker sees it: header, words, rows.
  std::string TheirTable() {
    const std::byte* table = other_.Object(KVS_TABLES, theirs_.table_chunk()).data() + theirs_.table_offset();
    return std::string(reinterpret_cast<const char*>(table), kvs_table_bytes(4, 64 / KVS_BLOCK_TOKENS));
  }

  // The call is refused so, and nothing has changed: no part of the ledger, no tenant, no lease, no table.
  void Refused(grpc::StatusCode code, const std::string& says, const std::function<Said()>& call) {
    const std::string books = rig_.GetStatus().SerializeAsString();
    const std::string table = TheirTable();
    const Said said = call();
    EXPECT_EQ(said.code, static_cast<uint32_t>(code)) << says << " | " << said.message;
    EXPECT_THAT(said.message, ::testing::HasSubstr(says));
    EXPECT_EQ(rig_.GetStatus().SerializeAsString(), books) << says;
    EXPECT_EQ(TheirTable(), table) << says;
  }

  // Residents of a unit that the last eviction kept, as its plan in the plan region says.
  std::vector<uint32_t> Kept(const v1::EvictedSequence& result, uint32_t unit) {
    const auto* plan = reinterpret_cast<const kvs_plan*>(worker_.Object(KVS_PLANS, 0).data() + result.plan_offset());
    const kvs_unit_plan* of_unit = kvs_unit_plan_of(plan, unit);
    const auto* indices =
        reinterpret_cast<const uint32_t*>(reinterpret_cast<const std::byte*>(plan) + of_unit->indices_offset);
    return {indices, indices + of_unit->kept};
  }

  v1::EvictSequence Ours(const std::string& policy = kBlind) {
    v1::EvictSequence item;
    item.set_sequence(kOurs);
    item.set_written_tokens(20);
    item.set_policy(policy);
    item.set_budget_tokens(10);
    return item;
  }

  Rig rig_;
  RawWorker worker_;
  RawWorker other_;
  v1::CreateSequenceResponse ours_;
  v1::CreateSequenceResponse theirs_;
};

}  // namespace kvsteward::rpc
