// Memory objects as a sidecar makes them, for tests that play the sidecar, honest or not.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <utility>

#include "base/fd_passing.h"
#include "base/unique_fd.h"
#include "client/cpp/connection.h"
#include "gtest/gtest.h"
#include "kvsteward/shm.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

namespace kvsteward::testing {

inline UniqueFd MakeFile(uint64_t bytes, int seals = F_SEAL_SHRINK | F_SEAL_GROW) {
  UniqueFd fd(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_TRUE(fd);
  EXPECT_EQ(ftruncate(fd.get(), static_cast<off_t>(bytes)), 0);
  EXPECT_EQ(fcntl(fd.get(), F_ADD_SEALS, seals), 0);
  return fd;
}

inline kvs_region_header MakeHeader(uint32_t kind, uint32_t index, uint64_t bytes) {
  kvs_region_header header{};
  header.magic = KVS_SHM_MAGIC;
  header.version = KVS_SHM_VERSION;
  header.kind = kind;
  header.index = index;
  header.bytes = bytes;
  return header;
}

// A region with its header, or an extent.
inline ReceivedObject MakeObject(uint32_t kind, uint32_t index, uint64_t bytes) {
  ReceivedObject object{kind, index, bytes, MakeFile(bytes)};
  if (kind != KVS_EXTENT) {
    const kvs_region_header header = MakeHeader(kind, index, bytes);
    EXPECT_EQ(pwrite(object.fd.get(), &header, sizeof(header), 0), static_cast<ssize_t>(sizeof(header)));
  }
  return object;
}

inline kvs_fd_message MakeMessage(uint32_t type) {
  kvs_fd_message message{};
  message.magic = KVS_SHM_MAGIC;
  message.version = KVS_SHM_VERSION;
  message.type = type;
  for (uint8_t i = 0; i < sizeof(message.ticket); ++i) message.ticket[i] = i;
  return message;
}

inline void SendMessage(int socket, const kvs_fd_message& message, std::span<const int> fds = {}) {
  EXPECT_TRUE(SendWithFds(socket, std::as_bytes(std::span(&message, 1)), fds, 0).ok());
}

inline void SendObject(int socket, const ReceivedObject& object) {
  kvs_fd_message message = MakeMessage(KVS_FD_OBJECT);
  message.kind = object.kind;
  message.index = object.index;
  message.bytes = object.bytes;
  const int fd = object.fd.get();
  SendMessage(socket, message, {&fd, 1});
}

inline std::pair<UniqueFd, UniqueFd> MakeSocketPair() {
  int fds[2];
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

inline Deadline Soon() { return std::chrono::steady_clock::now() + std::chrono::seconds(20); }
inline Deadline AtOnce() { return std::chrono::steady_clock::now(); }

}  // namespace kvsteward::testing
