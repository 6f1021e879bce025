// Every field of Evict and Observe, missing, zero, too large, of the wrong length or contradicting another; and what
// only one sequence of a call has wrong with it.
#include <functional>
#include <string>
#include <vector>

#include "tests/rpc/field_fixture.h"

namespace kvsteward::rpc {
namespace {

using ::testing::HasSubstr;

constexpr uint32_t kBillion = 1u << 30;

// Sequence 1 has 20 tokens.
class EvictFieldTest : public FieldTest {
 protected:
  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(FieldTest::SetUp());
    v1::ReserveRequest reserve;
    *reserve.mutable_lease() = worker_.lease();
    reserve.add_sequences()->set_sequence(1);
    reserve.mutable_sequences(0)->set_total_tokens(20);
    v1::ReserveResponse reserved;
    ASSERT_TRUE(worker_.stub().Reserve(Context().get(), reserve, &reserved).ok());
  }

  // An Evict or Observe of sequence 1 with four query rows.
  template <class Request>
  Request FourRows() const {
    Request request;
    *request.mutable_lease() = worker_.lease();
    auto* item = request.add_sequences();
    item->set_sequence(1);
    item->set_written_tokens(20);
    v1::Window* window = item->mutable_window();
    window->set_rows(4);
    window->set_dtype(v1::D_TYPE_F32);
    window->set_slot(0);
    return request;
  }
};

// A change of a request's only item.
template <class Request, class Item>
std::function<void(Request&)> First(void (*change)(Item&)) {
  return [=](Request& r) { change(*r.mutable_sequences(0)); };
}

// What both can have wrong with them.
template <class R, class S>
std::vector<Broken<R>> ItemCases() {
  const auto item = [](void (*change)(S&)) { return First<R, S>(change); };
  const auto window = [](const std::function<void(v1::Window&)>& change) {
    return [=](R& r) { change(*r.mutable_sequences(0)->mutable_window()); };
  };
  const auto positions = [&](const std::vector<uint32_t>& values) {
    return window([=](v1::Window& w) { w.mutable_positions()->Assign(values.begin(), values.end()); });
  };
  return {
      {[](R& r) { r.clear_sequences(); }, "sequences is 0 items long; it must be 1 to 64"},
      {[](R& r) {
         for (uint64_t i = 0; i < 64; ++i) r.add_sequences()->set_sequence(i + 2);
       },
       "sequences is 65 items long; it must be 1 to 64"},
      {item([](S& s) { s.set_sequence(0); }), "sequences[0].sequence is 0"},
      {[](R& r) { r.add_sequences()->set_sequence(1); }, "sequences[1].sequence is 1 once more"},
      {item([](S& s) { s.set_written_tokens(kBillion + 1); }), "sequences[0].written_tokens is 1073741825"},
      {item([](S& s) { s.set_policy("best"); }), "sequences[0].policy is refused: there is no policy 'best'"},
      {item([](S& s) { s.set_policy("name: [x"); }), "sequences[0].policy is refused: "},
      {item([](S& s) { s.set_policy("name: x\nwindow: -1\n"); }), "sequences[0].policy is refused: "},
      {item([](S& s) { s.set_policy("name: x\nsignal: guess\n"); }),
       "sequences[0].policy is refused: policy line 2: signal is 'guess'"},
      {item([](S& s) { s.set_policy("name: x\nselect: block\n"); }), "sequences[0].policy is refused: "},
      {item([](S& s) { s.set_policy(std::string(70'000, 'x')); }), "sequences[0].policy is refused: its text is 70000"},
      {item([](S& s) { s.set_budget_tokens(0); }), "sequences[0].budget_tokens is 0; it must be 1 to 1073741824"},
      {item([](S& s) { s.set_budget_tokens(~0u); }), "sequences[0].budget_tokens is 4294967295"},
      {item([](S& s) { s.set_budget_ppm(0); }), "sequences[0].budget_ppm is 0; it must be 1 to 1000000"},
      {item([](S& s) { s.set_budget_ppm(1'000'001); }), "sequences[0].budget_ppm is 1000001"},
      {item([](S& s) { s.set_budget_bytes(0); }), "sequences[0].budget_bytes is 0; it must be 1 to"},
      {item([](S& s) { s.set_budget_bytes(~uint64_t{0}); }), "sequences[0].budget_bytes is 18446744073709551615"},
      {window([](v1::Window& w) { w.set_rows(0); }), "sequences[0].window.rows is 0; it must be 1 to 4096"},
      {window([](v1::Window& w) { w.set_rows(4097); }), "sequences[0].window.rows is 4097; it must be 1 to 4096"},
      {window([](v1::Window& w) { w.set_rows(21); }), "sequences[0].window.rows is 21; it must be at most"},
      {window([](v1::Window& w) { w.clear_dtype(); }), "sequences[0].window.dtype is 0"},
      {window([](v1::Window& w) { w.set_dtype(static_cast<v1::DType>(9)); }), "sequences[0].window.dtype is 9"},
      {window([](v1::Window& w) { w.clear_queries(); }), "sequences[0].window.queries is missing"},
      {window([](v1::Window& w) { w.set_slot(1024); }), "sequences[0].window.slot is 1024; it must be 0 to 1023"},
      {window([](v1::Window& w) { w.set_inline_queries(""); }), "sequences[0].window.inline_queries is 0 bytes long"},
      {window([](v1::Window& w) { w.set_inline_queries(std::string((1 << 20) + 1, 'x')); }),
       "sequences[0].window.inline_queries is 1048577 bytes long"},
      {positions({3}), "sequences[0].window.positions is 1 items long"},
      {item([](S& s) { s.mutable_ready()->set_slot(256); }), "sequences[0].ready.slot is 256; it must be 0 to 255"},
      {item([](S& s) { s.mutable_ready()->set_slot(~0u); }), "sequences[0].ready.slot is 4294967295"},
      {item([](S& s) { s.mutable_done()->set_slot(256); }), "sequences[0].done.slot is 256; it must be 0 to 255"},
      {positions({3, 5, 5, 6}), "sequences[0].window.positions[2] is 5; it must be above"},
      {positions({3, 5, 6, 20}),
       "sequences[0].window.positions[3] is 20; it must be above the row's position before it and below "
       "written_tokens"},
      {positions({0, 1, 2, ~0u}), "sequences[0].window.positions[3] is 4294967295"},
  };
}

// What every input can have wrong with it. `floats`: its elements have four bytes.
template <class R>
void AddInputCases(const std::string& name, v1::Input* (v1::Inputs::*input)(), bool floats,
                   std::vector<Broken<R>>& cases) {
  const std::string field = "sequences[0].inputs." + name;
  const auto add = [&](const std::string& says, const std::function<void(v1::Input&)>& change) {
    cases.push_back({[=](R& r) { change(*(r.mutable_sequences(0)->mutable_inputs()->*input)()); }, field + says});
  };
  add(" is empty; set offset or inline_data", [](v1::Input& i) { i.clear_data(); });
  add(".offset is 32; it must be a multiple of 64", [](v1::Input& i) { i.set_offset(32); });
  add(".offset is 18446744073709551615", [](v1::Input& i) { i.set_offset(~uint64_t{0}); });
  add(".offset is 1099511627776; it must be", [](v1::Input& i) { i.set_offset(1ull << 40); });
  add(".inline_data is 0 bytes long; it must be elements", [](v1::Input& i) { i.set_inline_data(""); });
  add(".inline_data is 1048580 bytes long", [](v1::Input& i) { i.set_inline_data(std::string((1 << 20) + 4, 'x')); });
  if (floats) add(".inline_data is 7 bytes long", [](v1::Input& i) { i.set_inline_data("1234567"); });
}

// Every case of every item.
template <class R, class S>
std::vector<Broken<R>> AllCases(std::vector<Broken<R>> cases) {
  const std::vector<Broken<R>> items = ItemCases<R, S>();
  cases.insert(cases.end(), items.begin(), items.end());
  AddInputCases("classes", &v1::Inputs::mutable_classes, false, cases);
  AddInputCases("scores", &v1::Inputs::mutable_scores, true, cases);
  AddInputCases("projected_norms", &v1::Inputs::mutable_projected_norms, true, cases);
  AddInputCases("query_mean", &v1::Inputs::mutable_query_mean, true, cases);
  AddInputCases("query_covariance", &v1::Inputs::mutable_query_covariance, true, cases);
  return cases;
}

TEST_F(EvictFieldTest, Evict) {
  using R = v1::EvictRequest;
  using S = v1::EvictSequence;
  R right = FourRows<R>();
  right.mutable_sequences(0)->set_budget_tokens(40);
  const auto call = [&](const R& request) {
    v1::EvictResponse response;
    const grpc::Status status = worker_.stub().Evict(Context().get(), request, &response);
    EXPECT_TRUE(!status.ok() || response.sequences(0).outcome().code() == 0u) << response.ShortDebugString();
    return status;
  };
  ForeignLeases<R>(right, call);
  std::vector<Broken<R>> cases = AllCases<R, S>(LeaseCases<R>());
  cases.push_back(
      {First<R, S>([](S& s) { s.clear_budget(); }), "sequences[0].budget is missing; set budget_tokens, budget_ppm"});
  cases.push_back({First<R, S>([](S& s) { s.set_export_scores(true); }),
                   "sequences[0].export_scores is true; it must be false unless"});
  RefuseAll<R>(right, cases, call);
}

TEST_F(EvictFieldTest, Observe) {
  using R = v1::ObserveRequest;
  using S = v1::ObserveSequence;
  R right = FourRows<R>();
  right.mutable_sequences(0)->set_policy("h2o");
  for (const uint32_t position : {0, 1, 2, 3}) {
    right.mutable_sequences(0)->mutable_window()->add_positions(position);
  }
  const auto call = [&](const R& request) {
    v1::ObserveResponse response;
    const grpc::Status status = worker_.stub().Observe(Context().get(), request, &response);
    EXPECT_TRUE(!status.ok() || response.sequences(0).outcome().code() == 0u) << response.ShortDebugString();
    return status;
  };
  ForeignLeases<R>(right, call);
  std::vector<Broken<R>> cases = AllCases<R, S>(LeaseCases<R>());
  cases.push_back({First<R, S>([](S& s) { s.clear_window(); }), "sequences[0].window is missing; send the queries"});
  RefuseAll<R>(right, cases, call);
}

// What the shape alone does not show is refused by whoever knows, one sequence at a time.
TEST_F(FieldTest, OneBadSequenceNeverStopsTheOthers) {
  v1::ReserveRequest reserve;
  *reserve.mutable_lease() = worker_.lease();
  for (const uint64_t sequence : {99u, 1u}) {
    v1::ReserveSequence* item = reserve.add_sequences();
    item->set_sequence(sequence);
    item->set_total_tokens(20);
  }
  v1::ReserveResponse response;
  const grpc::Status status = worker_.stub().Reserve(Context().get(), reserve, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(response.sequences_size(), 2);
  EXPECT_EQ(response.sequences(0).outcome().code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(response.sequences(1).outcome().code(), grpc::StatusCode::OK);
  EXPECT_GE(response.sequences(1).reserved_tokens(), 20u);

  v1::EvictRequest evict;
  *evict.mutable_lease() = worker_.lease();
  for (const uint64_t sequence : {1u, 99u}) {
    v1::EvictSequence* item = evict.add_sequences();
    item->set_sequence(sequence);
    item->set_written_tokens(20);
    item->set_budget_tokens(40);
    // More rows than the lease's window slots hold.
    item->mutable_window()->set_rows(5);
    item->mutable_window()->set_dtype(v1::D_TYPE_F32);
    item->mutable_window()->set_slot(0);
  }
  v1::EvictResponse evicted;
  ASSERT_TRUE(worker_.stub().Evict(Context().get(), evict, &evicted).ok());
  ASSERT_EQ(evicted.sequences_size(), 2);
  EXPECT_EQ(evicted.sequences(0).outcome().code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(evicted.sequences(0).outcome().message(), HasSubstr("rows"));
  EXPECT_EQ(evicted.sequences(1).outcome().code(), grpc::StatusCode::NOT_FOUND);
  rig_.GetStatus();
}

// Texts that quote the request stay small enough for a trailer.
TEST_F(FieldTest, MessagesAreCut) {
  v1::EvictRequest evict;
  *evict.mutable_lease() = worker_.lease();
  evict.add_sequences()->set_sequence(1);
  std::string name;
  while (name.size() < 10'000) name += "\xc3\xa4";
  evict.mutable_sequences(0)->set_policy(name);
  v1::EvictResponse response;
  const grpc::Status status = worker_.stub().Evict(Context().get(), evict, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("sequences[0].policy is refused"));
  EXPECT_LT(status.error_message().size(), 2'000u);
}

}  // namespace
}  // namespace kvsteward::rpc
