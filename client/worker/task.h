// The retrieval task that the shipped model was trained for: pairs "key value" hidden in noise, asked for later. Its
// token layout comes with the model's weights. Values; thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace kvsteward::worker {

struct Task {
  uint32_t bos = 0;
  uint32_t ask = 0;
  uint32_t key_first = 0;
  uint32_t key_count = 0;
  uint32_t value_first = 0;
  uint32_t value_count = 0;
  uint32_t noise_first = 0;
  uint32_t noise_count = 0;
  uint32_t prompt_tokens = 0;
  uint32_t pairs = 0;      // in a prompt
  uint32_t questions = 0;  // about a prompt

  // Most tokens that asking and answering all questions adds to a prompt.
  uint32_t answer_tokens() const { return 3 * questions; }
};

// Reads the task of a model's metadata. INVALID_ARGUMENT, in one sentence, if a number is missing or makes no sense, or
// if a token is not below `vocab`.
absl::StatusOr<Task> ParseTask(const std::string& json, uint32_t vocab);

// Whether the prompt ends with its questions, so that a window sees them, or they come after it.
enum class PromptKind : uint8_t { kAware, kAgnostic };
const char* Name(PromptKind kind);

struct Question {
  uint32_t key = 0;
  uint32_t value = 0;     // the right answer
  uint32_t position = 0;  // of the pair's key in the prompt; its value follows
};

struct Prompt {
  PromptKind kind = PromptKind::kAware;
  std::vector<uint32_t> tokens;       // [prompt_tokens]
  std::vector<Question> questions;    // in the order in which they are asked and answered
  std::vector<uint32_t> pairs;        // [pairs] positions of all keys, ascending
  uint32_t first_question_token = 0;  // of an aware prompt; else prompt_tokens
};

// The prompt number `index` of its kind: always the same one, and different for every index.
Prompt MakePrompt(const Task& task, PromptKind kind, uint32_t index);

// The tokens to feed so that the answer to question `index` is read from the last of them: the answer to the question
// before it, if there is one, and the question. Empty for the first question of an aware prompt, whose last token asks
// it.
std::vector<uint32_t> AskingTokens(const Task& task, const Prompt& prompt, uint32_t index, uint32_t last_answer);

}  // namespace kvsteward::worker
