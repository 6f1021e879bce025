// The fd socket with the test as the sidecar.
#include "client/cpp/connection.h"

#include <sys/stat.h>

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/client/objects.h"

namespace kvsteward {
namespace {

using testing::AtOnce;
using ::testing::HasSubstr;
using testing::MakeMessage;
using testing::MakeObject;
using testing::MakeSocketPair;
using testing::SendMessage;
using testing::SendObject;
using testing::Soon;

// A connection that has its ticket, and the sidecar's end of it.
struct Connected {
  Connected() {
    auto [here, there] = MakeSocketPair();
    sidecar = std::move(there);
    SendMessage(sidecar.get(), MakeMessage(KVS_FD_TICKET));
    auto adopted = FdConnection::Adopt(std::move(here), Soon());
    EXPECT_TRUE(adopted.ok()) << adopted.status();
    if (adopted.ok()) connection.emplace(*std::move(adopted));
  }
  UniqueFd sidecar;
  std::optional<FdConnection> connection;
};

absl::Status AdoptAfter(const kvs_fd_message& message, std::span<const int> fds = {}) {
  auto [here, there] = MakeSocketPair();
  SendMessage(there.get(), message, fds);
  return FdConnection::Adopt(std::move(here), Soon()).status();
}

TEST(Connection, TakesTheTicket) {
  Connected c;
  for (uint8_t i = 0; i < 16; ++i) EXPECT_EQ(c.connection->ticket()[i], i);
}

TEST(Connection, NobodyListens) {
  auto missing = FdConnection::Connect(::testing::TempDir() + "no-such.sock", Soon());
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("no-such.sock"));
}

TEST(Connection, PathsThatCannotBe) {
  EXPECT_EQ(FdConnection::Connect("", Soon()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(FdConnection::Connect(std::string(108, 'a'), Soon()).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Connection, NoTicketInTime) {
  auto [here, there] = MakeSocketPair();
  EXPECT_EQ(FdConnection::Adopt(std::move(here), AtOnce()).status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST(Connection, HangsUpBeforeTheTicket) {
  auto [here, there] = MakeSocketPair();
  there.reset();
  EXPECT_EQ(FdConnection::Adopt(std::move(here), Soon()).status().code(), absl::StatusCode::kUnavailable);
}

TEST(Connection, RefusesWrongFirstMessages) {
  kvs_fd_message magic = MakeMessage(KVS_FD_TICKET);
  magic.magic ^= 1;
  EXPECT_EQ(AdoptAfter(magic).code(), absl::StatusCode::kInternal);
  kvs_fd_message version = MakeMessage(KVS_FD_TICKET);
  version.version = 2;
  EXPECT_EQ(AdoptAfter(version).code(), absl::StatusCode::kInternal);
  EXPECT_EQ(AdoptAfter(MakeMessage(KVS_FD_OBJECT)).code(), absl::StatusCode::kInternal);
  const UniqueFd file = testing::MakeFile(4096);
  const int fds[] = {file.get()};
  EXPECT_EQ(AdoptAfter(MakeMessage(KVS_FD_TICKET), fds).code(), absl::StatusCode::kInternal);
}

TEST(Connection, RefusesWrongSizes) {
  for (const size_t bytes : {size_t{1}, sizeof(kvs_fd_message) - 1, sizeof(kvs_fd_message) + 1, size_t{4096}}) {
    auto [here, there] = MakeSocketPair();
    std::vector<std::byte> data(bytes);
    const kvs_fd_message ticket = MakeMessage(KVS_FD_TICKET);
    std::memcpy(data.data(), &ticket, std::min(bytes, sizeof(ticket)));
    ASSERT_TRUE(SendWithFds(there.get(), data, {}, 0).ok());
    EXPECT_EQ(FdConnection::Adopt(std::move(here), Soon()).status().code(), absl::StatusCode::kInternal) << bytes;
  }
}

TEST(Connection, ReceivesAnObject) {
  Connected c;
  EXPECT_EQ(c.connection->Receive().status().code(), absl::StatusCode::kResourceExhausted);
  const ReceivedObject sent = MakeObject(KVS_TABLES, 3, 8192);
  SendObject(c.sidecar.get(), sent);
  auto object = c.connection->Receive();
  ASSERT_TRUE(object.ok()) << object.status();
  EXPECT_EQ(object->kind, KVS_TABLES);
  EXPECT_EQ(object->index, 3u);
  EXPECT_EQ(object->bytes, 8192u);
  struct stat here {
  }, there{};
  ASSERT_EQ(fstat(object->fd.get(), &here), 0);
  ASSERT_EQ(fstat(sent.fd.get(), &there), 0);
  EXPECT_EQ(here.st_ino, there.st_ino);
  EXPECT_NE(fcntl(object->fd.get(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST(Connection, ObjectsNeedOneDescriptor) {
  const UniqueFd file = testing::MakeFile(4096);
  const std::vector<std::vector<int>> wrong = {{}, {file.get(), file.get()}};
  for (const std::vector<int>& fds : wrong) {
    Connected c;
    SendMessage(c.sidecar.get(), MakeMessage(KVS_FD_OBJECT), fds);
    EXPECT_EQ(c.connection->Receive().status().code(), absl::StatusCode::kInternal) << fds.size();
  }
}

TEST(Connection, RefusesOtherMessages) {
  for (const uint32_t type : {0u, uint32_t{KVS_FD_TICKET}, uint32_t{KVS_FD_DETACH}, 77u}) {
    Connected c;
    SendMessage(c.sidecar.get(), MakeMessage(type));
    EXPECT_EQ(c.connection->Receive().status().code(), absl::StatusCode::kInternal) << type;
  }
}

TEST(Connection, SaysThatItDetaches) {
  Connected c;
  c.connection->Detach();
  auto received = ReceiveWithFds(c.sidecar.get(), sizeof(kvs_fd_message), 0);
  ASSERT_TRUE(received.ok()) << received.status();
  ASSERT_EQ(received->bytes.size(), sizeof(kvs_fd_message));
  kvs_fd_message message;
  std::memcpy(&message, received->bytes.data(), sizeof(message));
  EXPECT_EQ(message.magic, KVS_SHM_MAGIC);
  EXPECT_EQ(message.type, uint32_t{KVS_FD_DETACH});
}

TEST(Connection, SeesTheEnd) {
  Connected c;
  c.sidecar.reset();
  EXPECT_EQ(c.connection->Receive().status().code(), absl::StatusCode::kUnavailable);
  c.connection->Detach();  // must not raise SIGPIPE
}

}  // namespace
}  // namespace kvsteward
