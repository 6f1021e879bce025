// The retrieval prompts: that they are what the model was trained on, checked token by token.
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "client/worker/task.h"

namespace kvsteward::worker {
namespace {

constexpr char kTask[] = R"({"name": "key-value retrieval", "bos": 0, "ask": 1, "key_first": 16, "key_count": 64,
  "value_first": 80, "value_count": 64, "noise_first": 144, "noise_count": 112, "prompt_tokens": 1024, "pairs": 32,
  "questions": 8})";

bool IsKey(uint32_t token) { return token >= 16 && token < 80; }
bool IsValue(uint32_t token) { return token >= 80 && token < 144; }
bool IsNoise(uint32_t token) { return token >= 144 && token < 256; }

class WorkerTaskTest : public testing::TestWithParam<PromptKind> {
 protected:
  Task task_ = ParseTask(kTask, 256).value();
};

TEST_P(WorkerTaskTest, HidesDistinctPairsInNoise) {
  for (uint32_t index = 0; index < 50; ++index) {
    const Prompt prompt = MakePrompt(task_, GetParam(), index);
    ASSERT_EQ(prompt.tokens.size(), 1024u);
    ASSERT_EQ(prompt.first_question_token, GetParam() == PromptKind::kAware ? 1008u : 1024u);
    ASSERT_EQ(prompt.tokens[0], 0u);
    std::map<uint32_t, uint32_t> values;  // by key
    std::vector<uint32_t> positions;
    for (uint32_t at = 1; at < prompt.first_question_token; ++at) {
      if (IsNoise(prompt.tokens[at])) continue;
      ASSERT_TRUE(IsKey(prompt.tokens[at])) << at;
      ASSERT_LT(at + 1, prompt.first_question_token);
      ASSERT_TRUE(IsValue(prompt.tokens[at + 1])) << at;
      ASSERT_TRUE(values.emplace(prompt.tokens[at], prompt.tokens[at + 1]).second) << "key twice";
      positions.push_back(at++);
    }
    ASSERT_EQ(values.size(), 32u);
    ASSERT_EQ(prompt.pairs, positions);

    ASSERT_EQ(prompt.questions.size(), 8u);
    std::set<uint32_t> asked;
    for (const Question& question : prompt.questions) {
      ASSERT_EQ(values.at(question.key), question.value);
      ASSERT_EQ(prompt.tokens[question.position], question.key);
      ASSERT_TRUE(asked.insert(question.key).second);
    }
  }
}

TEST_P(WorkerTaskTest, AsksInTheOrderOfTheTask) {
  const Prompt prompt = MakePrompt(task_, GetParam(), 3);
  const bool aware = GetParam() == PromptKind::kAware;
  if (aware) {
    for (uint32_t i = 0; i < 8; ++i) {
      EXPECT_EQ(prompt.tokens[1008 + 2 * i], 1u);
      EXPECT_EQ(prompt.tokens[1009 + 2 * i], prompt.questions[(i + 1) % 8].key);
    }
  }
  const std::vector<uint32_t> first = AskingTokens(task_, prompt, 0, 99);
  EXPECT_EQ(first, aware ? std::vector<uint32_t>() : std::vector<uint32_t>({1, prompt.questions[0].key}));
  EXPECT_EQ(AskingTokens(task_, prompt, 5, 99), std::vector<uint32_t>({99, 1, prompt.questions[5].key}));
}

TEST_P(WorkerTaskTest, MakesTheSamePromptAgainAndAnotherForEachIndex) {
  std::set<std::vector<uint32_t>> prompts;
  for (uint32_t index = 0; index < 100; ++index) {
    const std::vector<uint32_t> tokens = MakePrompt(task_, GetParam(), index).tokens;
    EXPECT_EQ(tokens, MakePrompt(task_, GetParam(), index).tokens);
    EXPECT_TRUE(prompts.insert(tokens).second);
  }
}

TEST_P(WorkerTaskTest, PutsPairsAndQuestionsEverywhereAlike) {
  double pairs = 0;
  double questions = 0;
  constexpr uint32_t kPrompts = 400;
  for (uint32_t index = 0; index < kPrompts; ++index) {
    const Prompt prompt = MakePrompt(task_, GetParam(), index);
    for (const uint32_t pair : prompt.pairs) pairs += pair;
    for (const Question& question : prompt.questions) questions += question.position;
  }
  // A pair's mean place is the middle of the haystack; the mean of n of them strays by about 290 / sqrt(n).
  const double middle = MakePrompt(task_, GetParam(), 0).first_question_token / 2.0;
  EXPECT_NEAR(pairs / (kPrompts * 32), middle, 5 * 290 / 113.0);
  EXPECT_NEAR(questions / (kPrompts * 8), middle, 5 * 290 / 56.0);
}

INSTANTIATE_TEST_SUITE_P(Kinds, WorkerTaskTest, testing::Values(PromptKind::kAware, PromptKind::kAgnostic),
                         [](const auto& kind) { return std::string(Name(kind.param)); });

TEST(WorkerTaskParseTest, RefusesTasksThatMakeNoSense) {
  const auto good = nlohmann::json::parse(kTask);
  ASSERT_TRUE(ParseTask(good.dump(), 256).ok());
  const std::pair<const char*, nlohmann::json> bad[] = {
      {"bos", 256},       {"ask", -1},          {"key_count", 4'000'000'000},
      {"value_count", 0}, {"noise_count", 113}, {"pairs", 65},
      {"questions", 0},   {"questions", 33},    {"prompt_tokens", 80},
      {"pairs", "32"},    {"noise_first", 1.5}};
  for (const auto& [key, value] : bad) {
    auto json = good;
    json[key] = value;
    EXPECT_EQ(ParseTask(json.dump(), 256).status().code(), absl::StatusCode::kInvalidArgument) << key << " " << value;
  }
  EXPECT_FALSE(ParseTask("", 256).ok());
  EXPECT_FALSE(ParseTask("[]", 256).ok());
}

}  // namespace
}  // namespace kvsteward::worker
