#include "client/worker/task.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

namespace kvsteward::worker {
namespace {

// SplitMix64: small, and the same everywhere, which the standard library's distributions are not.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t Next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  // Uniform in [0, bound); the bias of at most bound / 2^64 does not matter here.
  uint32_t Below(uint32_t bound) { return static_cast<uint32_t>(Next() % bound); }
  // `count` distinct numbers below `bound`, in random order.
  std::vector<uint32_t> Distinct(uint32_t count, uint32_t bound) {
    std::vector<uint32_t> all(bound);
    std::iota(all.begin(), all.end(), 0);
    for (uint32_t i = 0; i < count; ++i) std::swap(all[i], all[i + Below(bound - i)]);
    all.resize(count);
    return all;
  }

 private:
  uint64_t state_;
};

absl::Status Refuse(const std::string& why) { return absl::InvalidArgumentError("the model's task " + why); }

// Fills `prompt.tokens` with BOS, noise and pairs; returns one question about each pair, in order of position.
std::vector<Question> Hide(const Task& task, uint32_t length, Random& random, Prompt& prompt) {
  const uint32_t items = length - 1 - task.pairs;  // pairs and single tokens of noise
  std::vector<uint32_t> places = random.Distinct(task.pairs, items);
  std::sort(places.begin(), places.end());
  const std::vector<uint32_t> keys = random.Distinct(task.pairs, task.key_count);

  prompt.tokens.assign(1, task.bos);
  while (prompt.tokens.size() < length) prompt.tokens.push_back(task.noise_first + random.Below(task.noise_count));
  std::vector<Question> pairs;
  for (uint32_t j = 0; j < task.pairs; ++j) {
    const uint32_t position = 1 + places[j] + j;  // each pair before it took one token more than an item
    const uint32_t value = task.value_first + random.Below(task.value_count);
    pairs.push_back({task.key_first + keys[j], value, position});
    prompt.tokens[position] = pairs.back().key;
    prompt.tokens[position + 1] = value;
    prompt.pairs.push_back(position);
  }
  return pairs;
}

}  // namespace

const char* Name(PromptKind kind) { return kind == PromptKind::kAware ? "aware" : "agnostic"; }

absl::StatusOr<Task> ParseTask(const std::string& text, uint32_t vocab) {
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return Refuse("is no JSON object; use a model that was trained for retrieval");
  Task task;
  const std::pair<const char*, uint32_t*> numbers[] = {
      {"bos", &task.bos},
      {"ask", &task.ask},
      {"key_first", &task.key_first},
      {"key_count", &task.key_count},
      {"value_first", &task.value_first},
      {"value_count", &task.value_count},
      {"noise_first", &task.noise_first},
      {"noise_count", &task.noise_count},
      {"prompt_tokens", &task.prompt_tokens},
      {"pairs", &task.pairs},
      {"questions", &task.questions},
  };
  constexpr uint32_t kMost = 1u << 20;
  for (const auto& [key, number] : numbers) {
    const auto found = json.find(key);
    if (found == json.end() || !found->is_number_unsigned() || found->get<uint64_t>() > kMost) {
      return Refuse(std::string("has no ") + key + " between 0 and " + std::to_string(kMost));
    }
    *number = found->get<uint32_t>();
  }
  const bool in_vocab = task.bos < vocab && task.ask < vocab && task.key_first + task.key_count <= vocab &&
                        task.value_first + task.value_count <= vocab && task.noise_first + task.noise_count <= vocab;
  if (!in_vocab) return Refuse("has tokens that are not below vocab_size, " + std::to_string(vocab));
  if (task.questions < 1 || task.questions > task.pairs || task.pairs > task.key_count || task.value_count < 1 ||
      task.noise_count < 1) {
    return Refuse("must have 1 <= questions <= pairs <= key_count, and values and noise");
  }
  if (task.prompt_tokens < 1 + 2 * task.pairs + 2 * task.questions) {
    return Refuse("has prompt_tokens " + std::to_string(task.prompt_tokens) + ", too few for its pairs and questions");
  }
  return task;
}

Prompt MakePrompt(const Task& task, PromptKind kind, uint32_t index) {
  constexpr uint64_t kSeed = 0x6b76737465776172;
  Random random(kSeed + 2 * static_cast<uint64_t>(index) + (kind == PromptKind::kAware ? 0 : 1));
  Prompt prompt;
  prompt.kind = kind;
  prompt.first_question_token = task.prompt_tokens - (kind == PromptKind::kAware ? 2 * task.questions : 0);
  const std::vector<Question> pairs = Hide(task, prompt.first_question_token, random, prompt);
  for (const uint32_t pair : random.Distinct(task.questions, task.pairs)) prompt.questions.push_back(pairs[pair]);
  if (kind == PromptKind::kAware) {
    // The first question comes last: the prompt's last token asks it.
    for (uint32_t i = 1; i <= task.questions; ++i) {
      prompt.tokens.push_back(task.ask);
      prompt.tokens.push_back(prompt.questions[i % task.questions].key);
    }
  }
  return prompt;
}

std::vector<uint32_t> AskingTokens(const Task& task, const Prompt& prompt, uint32_t index, uint32_t last_answer) {
  const uint32_t key = prompt.questions[index].key;
  if (index > 0) return {last_answer, task.ask, key};
  if (prompt.kind == PromptKind::kAware) return {};
  return {task.ask, key};
}

}  // namespace kvsteward::worker
