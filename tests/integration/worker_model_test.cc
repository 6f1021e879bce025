// What LoadModel believes of a file, and what it says of one that it does not believe.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/safetensors.h"
#include "client/worker/model.h"

namespace kvsteward::worker {
namespace {

using testing::HasSubstr;
using Json = nlohmann::json;

// A model of one layer, that can be spoiled before it is written.
class WorkerModelTest : public testing::Test {
 protected:
  WorkerModelTest() {
    Add("model.embed_tokens.weight", {32, 16});
    Add("model.layers.0.input_layernorm.weight", {16});
    Add("model.layers.0.self_attn.q_proj.weight", {32, 16});
    Add("model.layers.0.self_attn.k_proj.weight", {16, 16});
    Add("model.layers.0.self_attn.v_proj.weight", {16, 16});
    Add("model.layers.0.self_attn.o_proj.weight", {16, 32});
    Add("model.layers.0.post_attention_layernorm.weight", {16});
    Add("model.layers.0.mlp.gate_proj.weight", {48, 16});
    Add("model.layers.0.mlp.up_proj.weight", {48, 16});
    Add("model.layers.0.mlp.down_proj.weight", {16, 48});
    Add("model.norm.weight", {16});
    Add("lm_head.weight", {32, 16});
  }
  ~WorkerModelTest() override { std::filesystem::remove(path_); }

  void Add(const std::string& name, const std::vector<int64_t>& shape) {
    shapes_[name] = shape;
    int64_t elements = 1;
    for (const int64_t dimension : shape) elements *= dimension;
    data_[name].assign(static_cast<size_t>(elements), 0.5F);
  }
  void Write() {
    std::map<std::string, safetensors::Tensor> tensors;
    for (const auto& [name, shape] : shapes_) {
      tensors[name] = {safetensors::Type::kF32, shape, std::as_bytes(std::span(data_[name]))};
    }
    std::map<std::string, std::string> metadata;
    if (!config_.is_null()) metadata["config"] = config_.is_string() ? config_.get<std::string>() : config_.dump();
    ASSERT_TRUE(safetensors::Write(path_, tensors, metadata).ok());
  }
  void ExpectRefused(const std::string& words) {
    Write();
    ExpectFileRefused(words);
  }
  void ExpectFileRefused(const std::string& words) {
    const absl::StatusOr<Model> model = LoadModel(path_);
    ASSERT_FALSE(model.ok()) << words;
    EXPECT_EQ(model.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(model.status().message()), HasSubstr(path_ + ": "));
    EXPECT_THAT(std::string(model.status().message()), HasSubstr(words));
  }

  std::string path_ = testing::TempDir() + "worker_model_" +
                      testing::UnitTest::GetInstance()->current_test_info()->name() + ".safetensors";
  std::map<std::string, std::vector<int64_t>> shapes_;
  std::map<std::string, std::vector<float>> data_;
  Json config_ = {{"hidden_size", 16},
                  {"intermediate_size", 48},
                  {"num_hidden_layers", 1},
                  {"num_attention_heads", 2},
                  {"num_key_value_heads", 1},
                  {"head_dim", 16},
                  {"rms_norm_eps", 1e-5},
                  {"rope_theta", 10000.0},
                  {"vocab_size", 32},
                  {"max_position_embeddings", 64},
                  {"tie_word_embeddings", false}};
};

TEST_F(WorkerModelTest, LoadsAWholeFile) {
  Write();
  const absl::StatusOr<Model> model = LoadModel(path_);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->config.group(), 2u);
  EXPECT_EQ(model->layers.size(), 1u);
  EXPECT_EQ(model->layers[0].qkv.out(), 64u);
  EXPECT_EQ(model->head.out(), 32u);
}

TEST_F(WorkerModelTest, TiesTheHeadToTheEmbedding) {
  config_["tie_word_embeddings"] = true;
  shapes_.erase("lm_head.weight");
  Write();
  const absl::StatusOr<Model> model = LoadModel(path_);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->head.out(), 32u);
}

TEST_F(WorkerModelTest, SaysThatThereIsNoFile) {
  EXPECT_EQ(LoadModel(path_).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(WorkerModelTest, RefusesTruncatedFiles) {
  Write();
  for (auto length = std::filesystem::file_size(path_) - 1; length > 50; length -= 47) {
    std::filesystem::resize_file(path_, length);
    ExpectFileRefused("");
  }
}

TEST_F(WorkerModelTest, RefusesAFileThatIsSomethingElse) {
  std::ofstream(path_) << std::string(4096, 'x');
  ExpectFileRefused("header");
}

TEST_F(WorkerModelTest, RefusesMissingAndMisshapenTensors) {
  const std::string name = "model.layers.0.mlp.up_proj.weight";
  shapes_.erase(name);
  ExpectRefused("lacks the tensor '" + name + "', [48, 16] F32");
  Add(name, {16, 48});
  ExpectRefused("'" + name + "' is [16, 48] F32; the config asks for [48, 16] F32");
}

TEST_F(WorkerModelTest, RefusesWeightsThatAreNotFinite) {
  data_["model.norm.weight"][3] = NAN;
  ExpectRefused("'model.norm.weight' holds a number that is not finite");
}

TEST_F(WorkerModelTest, RefusesConfigsThatMakeNoSense) {
  const Json good = config_;
  const std::pair<const char*, Json> bad[] = {
      {"hidden_size", 0},         {"hidden_size", 24},        {"hidden_size", -16},
      {"hidden_size", 1e300},     {"hidden_size", "16"},      {"num_hidden_layers", 4'294'967'297},
      {"num_attention_heads", 0}, {"num_key_value_heads", 3}, {"head_dim", 8},
      {"rms_norm_eps", 0},        {"rms_norm_eps", -1},       {"rope_theta", nullptr},
      {"rope_theta", 0},          {"vocab_size", 33},         {"max_position_embeddings", 1u << 31},
      {"tie_word_embeddings", 1},
  };
  for (const auto& [key, value] : bad) {
    config_ = good;
    config_[key] = value;
    const bool heads = std::string(key) == "num_key_value_heads";
    ExpectRefused(heads ? "num_attention_heads is 2; it must be a multiple" : std::string(key) + " is ");
  }
  for (const auto& [key, value] : good.items()) {
    if (key == "tie_word_embeddings") continue;
    config_ = good;
    config_.erase(key);
    ExpectRefused(key + " is missing");
  }
  config_ = "{";
  ExpectRefused("'config' is no JSON object");
  config_ = nullptr;
  ExpectRefused("no 'config'");
}

TEST_F(WorkerModelTest, RefusesMoreLayersThanTheFileHas) {
  config_["num_hidden_layers"] = 1000;
  ExpectRefused("lacks the tensor 'model.layers.1.");
}

}  // namespace
}  // namespace kvsteward::worker
