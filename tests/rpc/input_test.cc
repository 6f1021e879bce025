// Inputs: what the caller supplies decides, inline or from the inputs area; what does not fit the sequence or the area,
// or is missing, is refused.
#include <cstring>
#include <string>
#include <vector>

#include "tests/rpc/state_fixture.h"

namespace kvsteward::rpc {
namespace {

using ::grpc::StatusCode;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kSubmitted[] = "name: mine\nsignal: submitted\n";
constexpr char kFlagged[] = "name: mine\nsignal: none\nprotect: {classes: [3]}\n";
constexpr char kExpected[] = "name: mine\nsignal: expected\n";
constexpr char kTwoStage[] = "name: mine\nsignal: submitted\nselect: {two_stage: {fraction: 0.5}}\n";

template <class T>
std::string Bytes(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

class InputTest : public StateFieldTest {
 protected:
  // A score for each of the 20 residents of the 4 units: they are worth most at `best` of their unit.
  static std::string Scores(size_t best) {
    std::vector<float> scores(80, 1.0f);
    for (size_t unit = 0; unit < 4; ++unit) scores[20 * unit + best + unit] = 2.0f;
    return Bytes(scores);
  }

  v1::EvictSequence With(const std::string& policy) {
    v1::EvictSequence item = Ours(policy);
    item.set_plan_only(true);
    item.set_export_plan(true);
    return item;
  }

  void Refuse(const std::string& says, const v1::EvictSequence& item) {
    Refused(StatusCode::INVALID_ARGUMENT, says, [&] { return Evict(worker_, item); });
  }
};

TEST_F(InputTest, ScoresDecideFromEitherPlace) {
  v1::EvictSequence item = With(kSubmitted);
  item.set_budget_tokens(1);
  item.mutable_inputs()->mutable_scores()->set_inline_data(Scores(5));
  v1::EvictedSequence result;
  ASSERT_NO_FATAL_FAILURE(Accepted(Evict(worker_, item, &result)));
  for (uint32_t unit = 0; unit < 4; ++unit) EXPECT_THAT(Kept(result, unit), ElementsAre(5 + unit));

  const std::string scores = Scores(11);
  std::byte* const area = worker_.Object(KVS_STATISTICS, 0).data() + worker_.attached().inputs_offset();
  std::memcpy(area + 4096 - 320, scores.data(), scores.size());  // the last that fit
  item.mutable_inputs()->mutable_scores()->set_offset(4096 - 320);
  ASSERT_NO_FATAL_FAILURE(Accepted(Evict(worker_, item, &result)));
  for (uint32_t unit = 0; unit < 4; ++unit) EXPECT_THAT(Kept(result, unit), ElementsAre(11 + unit));
}

TEST_F(InputTest, FlaggedTokensStay) {
  std::vector<uint8_t> classes(20, 0);
  classes[2] = classes[6] = 3;
  v1::EvictSequence item = With(kFlagged);
  item.set_budget_tokens(4);
  item.mutable_inputs()->mutable_classes()->set_inline_data(Bytes(classes));
  v1::EvictedSequence result;
  ASSERT_NO_FATAL_FAILURE(Accepted(Evict(worker_, item, &result)));
  EXPECT_THAT(Kept(result, 0), ElementsAre(2, 6, 18, 19));
}

TEST_F(InputTest, OneThatIsMissingIsNamedWithItsStage) {
  Refuse("signal submitted reads scores; the request gives none", With(kSubmitted));
  Refuse("protect.classes reads classes; the request gives none", With(kFlagged));
  Refuse("signal expected reads query_mean; the request gives none", With(kExpected));
  v1::EvictSequence item = With(kExpected);
  item.mutable_inputs()->mutable_query_mean()->set_offset(0);
  Refuse("signal expected reads query_covariance; the request gives none", item);
  item = With(kTwoStage);
  item.mutable_inputs()->mutable_scores()->set_offset(0);
  Refuse("select two_stage reads projected_norms; the request gives none", item);
}

TEST_F(InputTest, OneOfAnotherSizeIsRefused) {
  v1::EvictSequence item = With(kTwoStage);
  v1::Inputs& inputs = *item.mutable_inputs();
  inputs.mutable_scores()->set_inline_data(std::string(316, '\0'));
  Refuse("inputs.scores.inline_data has 316 bytes; it must have 320", item);
  inputs.mutable_scores()->set_inline_data(std::string(320, '\0'));
  inputs.mutable_projected_norms()->set_inline_data(std::string(324, '\0'));
  Refuse("inputs.projected_norms.inline_data has 324 bytes; it must have 320", item);
  inputs.mutable_projected_norms()->set_inline_data(std::string(320, '\0'));
  inputs.mutable_classes()->set_inline_data(std::string(19, '\0'));
  Refuse("inputs.classes.inline_data has 19 bytes; it must have 20", item);
  inputs.clear_classes();
  inputs.mutable_query_mean()->set_inline_data(std::string(252, '\0'));  // [2, 4, 8]
  Refuse("inputs.query_mean.inline_data has 252 bytes; it must have 256", item);
  inputs.clear_query_mean();
  inputs.mutable_query_covariance()->set_inline_data(std::string(256, '\0'));  // [2, 4, 8, 8]
  Refuse("inputs.query_covariance.inline_data has 256 bytes; it must have 2048", item);
  inputs.clear_query_covariance();
  Accepted(Evict(worker_, item));
}

TEST_F(InputTest, OneThatLeavesTheAreaIsRefused) {
  v1::EvictSequence item = With(kSubmitted);
  for (const uint64_t offset : {uint64_t{3840}, uint64_t{4096}, uint64_t{1} << 39}) {
    item.mutable_inputs()->mutable_scores()->set_offset(offset);
    Refuse("inputs.scores.offset is " + std::to_string(offset) + ", where 320 bytes end behind the inputs area's 4096",
           item);
  }
  RawWorker without(rig_.fd_path(), rig_.Workers());
  v1::AttachRequest attach = RawWorker::SmallGeometry();
  attach.clear_input_bytes();
  Accepted(ToSaid(without.Attach(attach)));
  Accepted(ToSaid(without.Hold()));
  Accepted(Create(without, kOurs, 64));
  Accepted(Reserve(without, Room(kOurs, 20)));
  item.set_export_plan(false);
  item.mutable_inputs()->mutable_scores()->set_offset(0);
  Refused(StatusCode::INVALID_ARGUMENT, "end behind the inputs area's 0; ask for more input_bytes in Attach",
          [&] { return Evict(without, item); });
  item.mutable_inputs()->mutable_scores()->set_inline_data(Scores(0));
  Accepted(Evict(without, item));
}

TEST_F(InputTest, NumbersThatAreNoScoresAreRefused) {
  for (const float bad : {-1.0f, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::vector<float> scores(80, 1.0f);
    scores[20 * 3 + 7] = bad;
    v1::EvictSequence item = With(kSubmitted);
    item.mutable_inputs()->mutable_scores()->set_inline_data(Bytes(scores));
    Refuse("scores", item);
  }
}

}  // namespace
}  // namespace kvsteward::rpc
