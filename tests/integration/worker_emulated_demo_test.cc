// The whole demo as two processes on one emulated device, and on the host: every row must succeed on both, and say the
// same. The model is the shipped one with a smaller task, so that it does not take minutes.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

namespace kvsteward::worker {
namespace {

using nlohmann::json;

// Long enough for a tenth of it to hold a window.
constexpr uint32_t kPromptTokens = 400;
constexpr uint32_t kPairs = 12;
constexpr uint32_t kQuestions = 1;

// A safetensors file: the length of a JSON header in 8 bytes, the header, the tensors.
void WriteSmallerTask(const std::filesystem::path& from, const std::filesystem::path& to) {
  std::ifstream in(from, std::ios::binary);
  const std::string file{std::istreambuf_iterator<char>(in), {}};
  uint64_t length = 0;
  ASSERT_GT(file.size(), sizeof(length));
  std::memcpy(&length, file.data(), sizeof(length));
  json header = json::parse(file.substr(sizeof(length), length));
  json task = json::parse(header.at("__metadata__").at("task").get<std::string>());
  task["prompt_tokens"] = kPromptTokens;
  task["pairs"] = kPairs;
  task["questions"] = kQuestions;
  header["__metadata__"]["task"] = task.dump();
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t new_length = text.size();
  std::ofstream out(to, std::ios::binary);
  out.write(reinterpret_cast<const char*>(&new_length), sizeof(new_length));
  out << text << file.substr(sizeof(length) + length);
  out.close();
  ASSERT_TRUE(out.good());
}

// One of the two programs' runs with one prompt of each kind; its report.
json RunDemo(const std::string& programs, const std::filesystem::path& folder, const std::string& device) {
  const std::string command = std::string(KVSTEWARD_DEMO) + " " + programs + " " + (folder / "model").string() + " " +
                              (folder / device).string() + " " + device + " --prompts 1";
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
  std::ifstream report(folder / device / "report.json");
  return json::parse(report, nullptr, /*allow_exceptions=*/false);
}

TEST(WorkerEmulatedDemoTest, SaysTheSameOnADeviceAndOnTheHost) {
  const std::filesystem::path folder = std::filesystem::path(::testing::TempDir()) / "worker_emulated_demo";
  std::filesystem::create_directories(folder);
  setenv("KVSTEWARD_EMULATED_DEVICE", "worker_demo", 1);  // a device to themselves, which both processes use
  ASSERT_NO_FATAL_FAILURE(WriteSmallerTask(KVSTEWARD_MODEL, folder / "model"));
  const json host = RunDemo(KVSTEWARD_PROGRAMS, folder, "host");
  const json cuda = RunDemo(KVSTEWARD_PROGRAMS, folder, "cuda");
  ASSERT_TRUE(host.is_object());
  ASSERT_TRUE(cuda.is_object());
  EXPECT_EQ(host.at("backend"), "host");
  EXPECT_EQ(host.at("device"), "host");
  EXPECT_EQ(cuda.at("backend"), "cuda");
  EXPECT_EQ(cuda.at("device").get<std::string>().rfind("GPU-", 0), 0u);
  EXPECT_EQ(cuda.at("decode_evictions"), host.at("decode_evictions"));
  for (const char* key : {"policy", "budget_tokens"}) {
    EXPECT_EQ(cuda.at("admission").at(key), host.at("admission").at(key)) << key;
  }
  EXPECT_GT(cuda.at("admission").at("bytes_returned"), 0);

  ASSERT_EQ(cuda.at("rows").size(), host.at("rows").size());
  EXPECT_EQ(host.at("rows").size(), 2u * (1 + 6 * 3));
  for (size_t i = 0; i < host.at("rows").size(); ++i) {
    const json& one = host.at("rows")[i];
    const json& other = cuda.at("rows")[i];
    SCOPED_TRACE(one.dump());
    for (const char* key : {"kind", "policy", "budget_tokens", "kv_bytes_before", "bytes_evicted"}) {
      EXPECT_EQ(other.at(key), one.at(key)) << key;
    }
    // Float32 sums in another order: near ties may be kept by one and not by the other.
    EXPECT_NEAR(other.at("kl_nats").get<double>(), one.at("kl_nats").get<double>(), 0.05);
  }
}

}  // namespace
}  // namespace kvsteward::worker
