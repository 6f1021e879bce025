// Safetensors files: what Write writes Open reads, and everything malformed is refused in one sentence with the path.
#include "base/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace kvsteward::safetensors {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

std::string TempPath(const std::string& name) {
  return ::testing::TempDir() + name + "." + std::to_string(getpid()) + ".safetensors";
}

// A file made of a header and data, with the header's true length unless another is claimed.
std::string WriteRaw(const std::string& header, const std::string& data, int64_t claimed = -1) {
  const std::string path = TempPath(::testing::UnitTest::GetInstance()->current_test_info()->name());
  const uint64_t length = claimed >= 0 ? static_cast<uint64_t>(claimed) : header.size();
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(reinterpret_cast<const char*>(&length), sizeof(length));
  out << header << data;
  return path;
}

absl::Status OpenRaw(const std::string& header, const std::string& data, int64_t claimed = -1) {
  const std::string path = WriteRaw(header, data, claimed);
  const absl::StatusOr<File> file = File::Open(path);
  if (file.ok()) return absl::OkStatus();
  EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument) << file.status();
  EXPECT_THAT(std::string(file.status().message()), StartsWith(path + ": "));
  EXPECT_THAT(std::string(file.status().message()), Not(HasSubstr("\n")));
  return file.status();
}

void ExpectRefused(const std::string& header, const std::string& data, const std::string& why) {
  EXPECT_THAT(std::string(OpenRaw(header, data).message()), HasSubstr(why)) << header;
}

template <class T>
std::span<const std::byte> Bytes(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

TEST(Safetensors, RoundTrip) {
  const std::vector<float> floats = {1.5f, -2, 0, 1e30f, 5, 6};
  const std::vector<uint8_t> bytes = {1, 2, 3};
  const std::vector<int64_t> longs = {INT64_MIN, INT64_MAX};
  const std::vector<uint16_t> halves = {0x3c00};
  const std::string path = TempPath("round_trip");
  ASSERT_TRUE(Write(path,
                    {{"floats", {Type::kF32, {2, 3}, Bytes(floats)}},
                     {"bytes", {Type::kU8, {3}, Bytes(bytes)}},
                     {"longs", {Type::kI64, {2}, Bytes(longs)}},
                     {"half", {Type::kF16, {}, Bytes(halves)}},
                     {"empty", {Type::kBF16, {0, 7}, {}}}},
                    {{"policy", "name: x\nwindow: 3\n"}, {"version", "1"}})
                  .ok());
  const absl::StatusOr<File> file = File::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->tensors().size(), 5u);
  EXPECT_EQ(file->metadata().at("policy"), "name: x\nwindow: 3\n");
  const Tensor* found = file->Find("floats");
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found->type, Type::kF32);
  EXPECT_EQ(found->shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(std::memcmp(found->bytes.data(), floats.data(), 24), 0);
  EXPECT_EQ(std::memcmp(file->Find("longs")->bytes.data(), longs.data(), 16), 0);
  EXPECT_EQ(std::memcmp(file->Find("bytes")->bytes.data(), bytes.data(), 3), 0);
  EXPECT_EQ(file->Find("half")->elements(), 1);
  EXPECT_EQ(file->Find("empty")->elements(), 0);
  EXPECT_EQ(file->Find("absent"), nullptr);
}

TEST(Safetensors, WriteReplacesAndLeavesNothingBeside) {
  const std::string path = TempPath("replace");
  const std::vector<uint8_t> one = {1};
  ASSERT_TRUE(Write(path, {{"a", {Type::kU8, {1}, Bytes(one)}}}, {}).ok());
  ASSERT_TRUE(Write(path, {{"b", {Type::kU8, {1}, Bytes(one)}}}, {}).ok());
  const absl::StatusOr<File> file = File::Open(path);
  ASSERT_TRUE(file.ok());
  EXPECT_NE(file->Find("b"), nullptr);
  EXPECT_EQ(file->Find("a"), nullptr);

  const absl::Status missing = Write("/nonexistent/x.safetensors", {}, {});
  EXPECT_THAT(std::string(missing.message()), StartsWith("/nonexistent/x.safetensors: "));
  EXPECT_EQ(Write(path, {{"b", {Type::kF32, {1}, Bytes(one)}}}, {}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(File::Open(path)->Find("b"), nullptr);  // the refused write changed nothing
}

TEST(Safetensors, MisalignedTensorsAreCopied) {
  // A header of an odd length and an odd offset: no float lies where it could be read in place.
  const float value = 2.5f;
  std::string data = "abc" + std::string(reinterpret_cast<const char*>(&value), 4);
  std::string header =
      R"({"u":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"f":{"dtype":"F32","shape":[1],"data_offsets":[3,7]}})";
  for (int pad = 0; pad < 8; ++pad) {
    absl::StatusOr<File> file = File::Open(WriteRaw(header + std::string(pad, ' '), data));
    ASSERT_TRUE(file.ok()) << file.status();
    const File moved = *std::move(file);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(moved.Find("f")->bytes.data()) % alignof(float), 0u);
    EXPECT_EQ(*reinterpret_cast<const float*>(moved.Find("f")->bytes.data()), value);
  }
}

TEST(Safetensors, NoSuchFile) {
  EXPECT_EQ(File::Open("/nonexistent/x").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(File::Open("/").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Safetensors, EveryTruncationIsRefused) {
  const std::string path = TempPath("whole");
  const std::vector<float> floats = {1, 2, 3};
  ASSERT_TRUE(Write(path, {{"f", {Type::kF32, {3}, Bytes(floats)}}}, {{"k", "v"}}).ok());
  std::ifstream in(path, std::ios::binary);
  const std::string whole((std::istreambuf_iterator<char>(in)), {});
  for (size_t length = 0; length < whole.size(); ++length) {
    const std::string cut = TempPath("cut");
    std::ofstream(cut, std::ios::binary | std::ios::trunc) << whole.substr(0, length);
    EXPECT_EQ(File::Open(cut).status().code(), absl::StatusCode::kInvalidArgument) << length;
  }
}

TEST(Safetensors, HeaderLength) {
  EXPECT_THAT(std::string(OpenRaw("{}", "", 100'000'001).message()), HasSubstr("at most 100000000"));
  EXPECT_THAT(std::string(OpenRaw("{}", "", INT64_MAX).message()), HasSubstr("at most 100000000"));
  EXPECT_THAT(std::string(OpenRaw("{}", "", 3).message()), HasSubstr("truncated"));
  EXPECT_TRUE(OpenRaw("{}", "").ok());
  EXPECT_FALSE(OpenRaw("", "").ok());
}

TEST(Safetensors, HeaderIsNoObjectOfTensors) {
  for (const char* header : {"[]", "1", "{", "{}x", "\"a\"", "{\"a\":1}", "{\"a\":[]}", "{\"a\":{}}", "{'a':1}",
                             R"({"__metadata__":1})", R"({"__metadata__":{"a":1}})", "\xff\xfe{}"}) {
    EXPECT_FALSE(OpenRaw(header, "").ok()) << header;
  }
  EXPECT_FALSE(OpenRaw(std::string(200'000, '['), "").ok());
  std::string nested;
  for (int i = 0; i < 100'000; ++i) nested += "{\"a\":";
  EXPECT_FALSE(OpenRaw(nested, "").ok());
}

TEST(Safetensors, DuplicateNames) {
  const std::string entry = R"({"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  ExpectRefused("{\"a\":" + entry + ",\"a\":" + entry + "}", "x", "'a' twice");
  ExpectRefused(R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "x", "'dtype' twice");
  ExpectRefused(R"({"__metadata__":{"k":"1","k":"2"}})", "", "'k' twice");
}

TEST(Safetensors, Types) {
  for (const char* type : {"F64", "f32", "BOOL", "", "F8_E4M3"}) {
    ExpectRefused(std::string(R"({"a":{"dtype":")") + type + R"(","shape":[1],"data_offsets":[0,1]}})", "x", "dtype");
  }
  ExpectRefused(R"({"a":{"dtype":3,"shape":[1],"data_offsets":[0,1]}})", "x", "dtype");
}

TEST(Safetensors, Shapes) {
  const auto with_shape = [](const std::string& shape) {
    return R"({"a":{"dtype":"F32","shape":)" + shape + R"(,"data_offsets":[0,4]}})";
  };
  EXPECT_TRUE(OpenRaw(with_shape("[1]"), "1234").ok());
  EXPECT_TRUE(OpenRaw(with_shape("[]"), "1234").ok());
  ExpectRefused(with_shape("[-1]"), "1234", "non-negative integer");
  ExpectRefused(with_shape("[1.0]"), "1234", "non-negative integer");
  ExpectRefused(with_shape("[\"1\"]"), "1234", "non-negative integer");
  ExpectRefused(with_shape("[true]"), "1234", "non-negative integer");
  ExpectRefused(with_shape("4"), "1234", "no list");
  ExpectRefused(with_shape("[4294967296,4294967296]"), "1234", "overflows");
  ExpectRefused(with_shape("[18446744073709551615]"), "1234", "overflows");
  ExpectRefused(with_shape("[4611686018427387905]"), "1234", "overflows");  // times 4 is 4 modulo 2^64
  ExpectRefused(with_shape("[18446744073709551616]"), "1234", "non-negative integer");
  ExpectRefused(with_shape("[2]"), "1234", "need 8 bytes");
}

TEST(Safetensors, Offsets) {
  const auto with_offsets = [](const std::string& offsets) {
    return R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + offsets + "}}";
  };
  EXPECT_TRUE(OpenRaw(with_offsets("[0,4]"), "1234").ok());
  ExpectRefused(with_offsets("[0,4]"), "12345", "cover 4 of 5");
  ExpectRefused(with_offsets("[1,5]"), "12345", "starts at byte 1");
  ExpectRefused(with_offsets("[0,4]"), "123", "ends at byte 4");
  ExpectRefused(with_offsets("[4,0]"), "1234", "need 4 bytes");
  ExpectRefused(with_offsets("[-4,0]"), "1234", "non-negative");
  ExpectRefused(with_offsets("[0]"), "1234", "pair");
  ExpectRefused(with_offsets("[18446744073709551612,18446744073709551616]"), "1234", "pair");
  ExpectRefused(with_offsets("[18446744073709551611,18446744073709551615]"), "1234", "ends at byte");

  const auto pair = [](const std::string& first, const std::string& second) {
    return R"({"a":{"dtype":"U8","shape":[2],"data_offsets":)" + first +
           R"(},"b":{"dtype":"U8","shape":[2],"data_offsets":)" + second + "}}";
  };
  EXPECT_TRUE(OpenRaw(pair("[2,4]", "[0,2]"), "1234").ok());
  ExpectRefused(pair("[0,2]", "[1,3]"), "123", "starts at byte 1");
  ExpectRefused(pair("[0,2]", "[0,2]"), "12", "starts at byte 0");
  ExpectRefused(pair("[0,2]", "[3,5]"), "12345", "starts at byte 3");
}

TEST(Safetensors, HostileNamesStayInOneLine) {
  ExpectRefused(R"({"a\nb\u0000":{"dtype":"Z","shape":[1],"data_offsets":[0,1]}})", "x", "'a?b?'");
}

// Any single flipped byte either still describes the data or is refused; never more than that.
TEST(Safetensors, FlippedBytes) {
  const std::string path = TempPath("flip_source");
  const std::vector<float> floats = {1, 2, 3};
  ASSERT_TRUE(Write(path, {{"f", {Type::kF32, {3}, Bytes(floats)}}}, {{"k", "v"}}).ok());
  std::ifstream in(path, std::ios::binary);
  const std::string whole((std::istreambuf_iterator<char>(in)), {});
  int refused = 0;
  for (size_t i = 0; i < whole.size() - 12; ++i) {
    for (const char flip : {'\x01', '\x80', '\x20'}) {
      std::string bad = whole;
      bad[i] = static_cast<char>(bad[i] ^ flip);
      const std::string flipped = TempPath("flipped");
      std::ofstream(flipped, std::ios::binary | std::ios::trunc) << bad;
      const absl::StatusOr<File> file = File::Open(flipped);
      if (!file.ok()) {
        ++refused;
        continue;
      }
      for (const auto& [name, tensor] : file->tensors()) {
        EXPECT_EQ(tensor.bytes.size(), static_cast<size_t>(tensor.elements()) * SizeOf(tensor.type));
      }
    }
  }
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace kvsteward::safetensors
