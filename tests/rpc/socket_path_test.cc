#include "service/rpc/socket_path.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/rpc/raw_socket.h"
#include "tests/rpc/temp_dir.h"

namespace kvsteward::rpc {
namespace {

using ::testing::HasSubstr;

std::string MessageOf(const absl::StatusOr<SocketPath>& path) { return std::string(path.status().message()); }

TEST(SocketPathTest, ASecondClaimNamesTheFirstOnesPid) {
  const TempDir dir;
  const absl::StatusOr<SocketPath> first = SocketPath::Claim(dir / "x.sock", SOCK_SEQPACKET);
  ASSERT_TRUE(first.ok()) << first.status();
  const absl::StatusOr<SocketPath> second = SocketPath::Claim(dir / "x.sock", SOCK_SEQPACKET);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(MessageOf(second), "the socket " + (dir / "x.sock") + " is in use by another kvsteward (pid " +
                                   std::to_string(getpid()) + ")");
}

TEST(SocketPathTest, WhatADeadDaemonLeftIsRemoved) {
  const TempDir dir;
  {
    // A socket file whose listener is gone, as after SIGKILL: closed, not unlinked.
    absl::StatusOr<SocketPath> path = SocketPath::Claim(dir / "x.sock", SOCK_SEQPACKET);
    ASSERT_TRUE(path.ok());
    ASSERT_TRUE(ListenSeqpacket(*path).ok());
    std::filesystem::rename(dir / "x.sock", dir / "kept");
  }
  std::filesystem::rename(dir / "kept", dir / "x.sock");
  const absl::StatusOr<SocketPath> path = SocketPath::Claim(dir / "x.sock", SOCK_SEQPACKET);
  ASSERT_TRUE(path.ok()) << path.status();
  EXPECT_FALSE(std::filesystem::exists(dir / "x.sock"));
  const absl::StatusOr<UniqueFd> listener = ListenSeqpacket(*path);
  ASSERT_TRUE(listener.ok()) << listener.status();
  EXPECT_TRUE(ConnectFdSocket(dir / "x.sock"));
}

TEST(SocketPathTest, AForeignListenerStays) {
  for (const int type : {SOCK_SEQPACKET, SOCK_STREAM}) {
    const TempDir dir;
    const absl::StatusOr<SocketPath> theirs = SocketPath::Claim(dir / "x.sock", SOCK_SEQPACKET);
    const absl::StatusOr<UniqueFd> listener = ListenSeqpacket(*theirs);
    ASSERT_TRUE(listener.ok());
    std::filesystem::remove(dir / "x.sock.lock");  // they know no lock
    const absl::StatusOr<SocketPath> ours = SocketPath::Claim(dir / "x.sock", type);
    EXPECT_EQ(ours.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(MessageOf(ours), HasSubstr("another program listens on the socket"));
    EXPECT_TRUE(ConnectFdSocket(dir / "x.sock"));
  }
}

TEST(SocketPathTest, AFileThatIsNoSocketStays) {
  const TempDir dir;
  std::ofstream(dir / "x.sock") << "precious";
  const absl::StatusOr<SocketPath> path = SocketPath::Claim(dir / "x.sock", SOCK_STREAM);
  EXPECT_EQ(path.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(std::filesystem::exists(dir / "x.sock"));
}

TEST(SocketPathTest, PathsThatNoSocketCanHave) {
  const TempDir dir;
  EXPECT_THAT(MessageOf(SocketPath::Claim("", SOCK_STREAM)), HasSubstr("is 0 bytes long; it must be 1 to 107"));
  EXPECT_THAT(MessageOf(SocketPath::Claim("/" + std::string(107, 'x'), SOCK_STREAM)), HasSubstr("is 108 bytes long"));
}

TEST(SocketPathTest, ADirectoryIsMadeButNotItsParents) {
  const TempDir dir;
  EXPECT_TRUE(SocketPath::Claim(dir / "made/x.sock", SOCK_STREAM).ok());
  EXPECT_THAT(MessageOf(SocketPath::Claim(dir / "none/of/x.sock", SOCK_STREAM)),
              HasSubstr("the directory " + (dir / "none/of") + " of a socket cannot be made; make it"));
}

TEST(SocketPathTest, TheFileGoesWithItsOwnerAndTheLockStays) {
  const TempDir dir;
  {
    const absl::StatusOr<SocketPath> path = SocketPath::Claim(dir / "x.sock", SOCK_SEQPACKET);
    ASSERT_TRUE(ListenSeqpacket(*path).ok());
    ASSERT_TRUE(path->SetMode(0660).ok());
    struct stat file {};
    ASSERT_EQ(stat((dir / "x.sock").c_str(), &file), 0);
    EXPECT_EQ(file.st_mode & 07777u, 0660u);
  }
  EXPECT_FALSE(std::filesystem::exists(dir / "x.sock"));
  EXPECT_TRUE(std::filesystem::exists(dir / "x.sock.lock"));
  EXPECT_TRUE(SocketPath::Claim(dir / "x.sock", SOCK_SEQPACKET).ok());
}

}  // namespace
}  // namespace kvsteward::rpc
