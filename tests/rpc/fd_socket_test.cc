#include "service/rpc/fd_socket.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/fd_passing.h"
#include "base/mutex.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/rpc/raw_socket.h"
#include "tests/rpc/temp_dir.h"

namespace kvsteward::rpc {
namespace {

using ::testing::ElementsAre;

// What the socket posted, one word an event.
class Posted {
 public:
  void Add(const core::Event& event) {
    MutexLock lock(mutex_);
    if (const auto* opened = std::get_if<core::SocketOpened>(&event)) {
      words_.emplace_back(opened->socket, "opened");
      tickets_[opened->socket] = opened->ticket;
      observable_ = observable_ && opened->death_observable;
    } else if (const auto* closed = std::get_if<core::SocketClosed>(&event)) {
      words_.emplace_back(closed->socket, "closed");
    } else if (const auto* detached = std::get_if<core::Detached>(&event)) {
      words_.emplace_back(detached->socket, "detached");
    } else if (const auto* gone = std::get_if<core::ProcessGone>(&event)) {
      words_.emplace_back(gone->socket, "gone");
    }
    changed_.NotifyAll();
  }

  std::vector<std::string> Of(core::SocketId socket) {
    MutexLock lock(mutex_);
    std::vector<std::string> words;
    for (const auto& [id, word] : words_) {
      if (id == socket) words.push_back(word);
    }
    return words;
  }

  // Waits for `count` such events of all connections; false if half a minute passes.
  bool Await(const std::string& word, size_t count) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    MutexLock lock(mutex_);
    for (;;) {
      const auto is_word = [&](const auto& entry) { return entry.second == word; };
      if (static_cast<size_t>(std::count_if(words_.begin(), words_.end(), is_word)) >= count) return true;
      if (std::chrono::steady_clock::now() >= deadline) return false;
      changed_.WaitUntil(mutex_, deadline);
    }
  }

  core::Secret ticket(core::SocketId socket) {
    MutexLock lock(mutex_);
    return tickets_[socket];
  }
  bool observable() {
    MutexLock lock(mutex_);
    return observable_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::vector<std::pair<core::SocketId, std::string>> words_ KVS_GUARDED_BY(mutex_);
  std::map<core::SocketId, core::Secret> tickets_ KVS_GUARDED_BY(mutex_);
  bool observable_ KVS_GUARDED_BY(mutex_) = true;
};

// A process of its own that runs `body` and ends; killed if it still runs at the end.
class Child {
 public:
  explicit Child(const std::function<void()>& body) : pid_(fork()) {
    if (pid_ == 0) {
      body();
      _exit(0);
    }
  }
  ~Child() { Kill(); }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }

 private:
  pid_t pid_;
};

size_t OpenDescriptors() {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
  return count;
}

class FdSocketTest : public ::testing::Test {
 protected:
  static constexpr uint32_t kConnections = 4;

  void SetUp() override {
    auto socket = FdSocket::Listen({{"a", path()}, {"b", dir_ / "b.sock"}}, kConnections,
                                   [this](const core::Event& event) { posted_.Add(event); });
    ASSERT_TRUE(socket.ok()) << socket.status();
    socket_ = *std::move(socket);
    socket_->Start();
  }

  std::string path() const { return dir_ / "a.sock"; }
  UniqueFd Connect() const { return ConnectFdSocket(path()); }
  // One object, our end of an eventfd.
  void SendObject(core::SocketId id) {
    const UniqueFd object(eventfd(0, EFD_CLOEXEC));
    socket_->Send(id, FdMessage(KVS_FD_OBJECT), object.get());
  }

  TempDir dir_;
  Posted posted_;
  std::unique_ptr<FdSocket> socket_;
};

TEST_F(FdSocketTest, TheTicketIsTheFirstMessageAndOnlyCoreKnowsIt) {
  const UniqueFd worker = Connect();
  const std::optional<kvs_fd_message> message = ReceiveFdMessage(worker.get());
  ASSERT_TRUE(message);
  EXPECT_EQ(message->magic, KVS_SHM_MAGIC);
  EXPECT_EQ(message->version, KVS_SHM_VERSION);
  EXPECT_EQ(message->type, KVS_FD_TICKET);
  ASSERT_TRUE(posted_.Await("opened", 1));
  const core::Secret ticket = posted_.ticket(1);
  EXPECT_EQ(std::memcmp(message->ticket, ticket.data(), ticket.size()), 0);
  EXPECT_NE(ticket, core::Secret{});
  EXPECT_TRUE(posted_.observable());
  const UniqueFd other = Connect();
  ASSERT_TRUE(posted_.Await("opened", 2));
  EXPECT_NE(posted_.ticket(2), ticket);
}

TEST_F(FdSocketTest, AConnectionWithoutObjectsEndsAsIfDetached) {
  UniqueFd worker = Connect();
  ASSERT_TRUE(posted_.Await("opened", 1));
  worker.reset();
  ASSERT_TRUE(posted_.Await("closed", 1));
  EXPECT_THAT(posted_.Of(1), ElementsAre("opened", "detached", "closed"));
}

TEST_F(FdSocketTest, DetachThenEndOfFile) {
  UniqueFd worker = Connect();
  ASSERT_TRUE(posted_.Await("opened", 1));
  SendObject(1);
  const kvs_fd_message detach = FdMessage(KVS_FD_DETACH);
  ASSERT_TRUE(SendRaw(worker.get(), &detach, sizeof(detach)));
  ASSERT_TRUE(posted_.Await("detached", 1));
  worker.reset();
  ASSERT_TRUE(posted_.Await("closed", 1));
  EXPECT_THAT(posted_.Of(1), ElementsAre("opened", "detached", "closed"));
}

TEST_F(FdSocketTest, ADetachIsHeardThoughObjectsWereNeverRead) {
  for (core::SocketId id = 1; id <= 50; ++id) {
    UniqueFd worker = Connect();
    ASSERT_TRUE(posted_.Await("opened", id));
    SendObject(id);
    const kvs_fd_message detach = FdMessage(KVS_FD_DETACH);
    ASSERT_TRUE(SendRaw(worker.get(), &detach, sizeof(detach)));
    worker.reset();
    ASSERT_TRUE(posted_.Await("closed", id));
    EXPECT_THAT(posted_.Of(id), ElementsAre("opened", "detached", "closed"));
  }
}

TEST_F(FdSocketTest, AnythingButOneDetachIsHungUpOn) {
  kvs_fd_message wrong_magic = FdMessage(KVS_FD_DETACH);
  wrong_magic.magic ^= 1;
  kvs_fd_message wrong_version = FdMessage(KVS_FD_DETACH);
  wrong_version.version = 2;
  const kvs_fd_message ticket = FdMessage(KVS_FD_TICKET);
  const kvs_fd_message object = FdMessage(KVS_FD_OBJECT);
  const kvs_fd_message unknown = FdMessage(77);
  const std::vector<char> longer(sizeof(kvs_fd_message) + 1, 'x');
  const std::vector<char> huge(100'000, 'x');
  const std::vector<std::pair<const void*, size_t>> messages = {{&wrong_magic, sizeof(wrong_magic)},
                                                                {&wrong_version, sizeof(wrong_version)},
                                                                {&ticket, sizeof(ticket)},
                                                                {&object, sizeof(object)},
                                                                {&unknown, sizeof(unknown)},
                                                                {longer.data(), longer.size()},
                                                                {huge.data(), huge.size()},
                                                                {longer.data(), 1},
                                                                {longer.data(), 0},
                                                                {longer.data(), sizeof(kvs_fd_message) - 1}};
  for (size_t i = 0; i < messages.size(); ++i) {
    const UniqueFd worker = Connect();
    EXPECT_TRUE(SendRaw(worker.get(), messages[i].first, messages[i].second)) << i;
    EXPECT_TRUE(HungUp(worker.get())) << i;
    ASSERT_TRUE(posted_.Await("closed", i + 1)) << i;
    EXPECT_THAT(posted_.Of(i + 1), ElementsAre("opened", "detached", "closed")) << i;
  }
}

TEST_F(FdSocketTest, ASecondDetachIsHungUpOn) {
  const UniqueFd worker = Connect();
  const kvs_fd_message detach = FdMessage(KVS_FD_DETACH);
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(SendRaw(worker.get(), &detach, sizeof(detach)));
  EXPECT_TRUE(HungUp(worker.get()));
  ASSERT_TRUE(posted_.Await("closed", 1));
  EXPECT_THAT(posted_.Of(1), ElementsAre("opened", "detached", "closed"));
}

TEST_F(FdSocketTest, HalfAConnectionIsNone) {
  const UniqueFd worker = Connect();
  ASSERT_TRUE(posted_.Await("opened", 1));
  shutdown(worker.get(), SHUT_WR);
  EXPECT_TRUE(HungUp(worker.get()));
  EXPECT_TRUE(posted_.Await("closed", 1));
}

TEST_F(FdSocketTest, DescriptorsFromAWorkerAreNotTaken) {
  const UniqueFd worker = Connect();
  ASSERT_TRUE(ReceiveFdMessage(worker.get()));
  const size_t before = OpenDescriptors();
  const UniqueFd gift(eventfd(0, EFD_CLOEXEC));
  const std::vector<int> gifts(200, gift.get());
  const kvs_fd_message detach = FdMessage(KVS_FD_DETACH);
  // Newer kernels refuse them on our behalf.
  if (SendWithFds(worker.get(), std::as_bytes(std::span(&detach, 1)), gifts, 0).ok()) {
    ASSERT_TRUE(posted_.Await("detached", 1));
  }
  EXPECT_EQ(OpenDescriptors(), before + 1);
}

TEST_F(FdSocketTest, OneTenantsFloodIsNotTheOthers) {
  std::vector<UniqueFd> workers;
  for (uint32_t i = 0; i < kConnections; ++i) {
    workers.push_back(Connect());
    ASSERT_TRUE(ReceiveFdMessage(workers.back().get()));
  }
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(HungUp(Connect().get()));
  EXPECT_TRUE(ReceiveFdMessage(ConnectFdSocket(dir_ / "b.sock").get()));
  // Who leaves makes room.
  workers.pop_back();
  ASSERT_TRUE(posted_.Await("closed", 1));
  EXPECT_TRUE(ReceiveFdMessage(Connect().get()));
}

TEST_F(FdSocketTest, EveryConnectionThatOpensCloses) {
  const size_t before = OpenDescriptors();
  for (int i = 0; i < 1000; ++i) Connect().reset();
  // The last one goes through the same thread after all of them.
  UniqueFd last = ConnectFdSocket(dir_ / "b.sock");
  ASSERT_TRUE(ReceiveFdMessage(last.get()));
  last.reset();
  socket_->Stop();
  size_t opened = 0;
  for (core::SocketId id = 1; !posted_.Of(id).empty(); ++id, ++opened) {
    const std::vector<std::string> words = posted_.Of(id);
    EXPECT_TRUE(words.size() == 1 || words == std::vector<std::string>({"opened", "detached", "closed"}));
  }
  EXPECT_GE(opened, 1u);
  EXPECT_LE(OpenDescriptors(), before);
}

TEST_F(FdSocketTest, WhoDoesNotReadLosesTheConnectionAndNobodyElse) {
  const UniqueFd lazy = Connect();
  const UniqueFd good = Connect();
  ASSERT_TRUE(posted_.Await("opened", 2));
  ASSERT_TRUE(ReceiveFdMessage(good.get()));
  for (int i = 0; i < 100'000 && posted_.Of(1).size() == 1; ++i) SendObject(1);
  ASSERT_TRUE(posted_.Await("closed", 1));
  EXPECT_THAT(posted_.Of(1), ElementsAre("opened", "closed"));
  SendObject(2);
  UniqueFd object;
  const std::optional<kvs_fd_message> message = ReceiveFdMessage(good.get(), &object);
  ASSERT_TRUE(message);
  EXPECT_EQ(message->type, KVS_FD_OBJECT);
  EXPECT_TRUE(object);
}

TEST_F(FdSocketTest, CoreCanHangUp) {
  const UniqueFd worker = Connect();
  ASSERT_TRUE(posted_.Await("opened", 1));
  socket_->Close(1, "because");
  socket_->Close(1, "twice");
  socket_->Close(99, "never there");
  SendObject(99);
  EXPECT_TRUE(HungUp(worker.get()));
  EXPECT_TRUE(posted_.Await("closed", 1));
}

TEST_F(FdSocketTest, AKilledWorkersProcessIsSeenToBeGone) {
  Child child([this] {
    const UniqueFd worker = Connect();
    pause();
  });
  ASSERT_TRUE(posted_.Await("opened", 1));
  SendObject(1);
  child.Kill();
  ASSERT_TRUE(posted_.Await("gone", 1));
  EXPECT_THAT(posted_.Of(1), ElementsAre("opened", "closed", "gone"));
}

TEST_F(FdSocketTest, AWorkerThatHangsUpAndLivesIsWatchedUntilItDies) {
  Child child([this] {
    UniqueFd worker = Connect();
    (void)ReceiveFdMessage(worker.get());
    UniqueFd object;
    (void)ReceiveFdMessage(worker.get(), &object);
    worker.reset();
    pause();
  });
  ASSERT_TRUE(posted_.Await("opened", 1));
  SendObject(1);
  ASSERT_TRUE(posted_.Await("closed", 1));
  EXPECT_THAT(posted_.Of(1), ElementsAre("opened", "closed"));
  child.Kill();
  ASSERT_TRUE(posted_.Await("gone", 1));
  EXPECT_THAT(posted_.Of(1), ElementsAre("opened", "closed", "gone"));
}

TEST_F(FdSocketTest, AConnectionThatOutlivesItsProcessEndsWithIt) {
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
  const UniqueFd ours(pair[0]);
  const UniqueFd theirs(pair[1]);
  Child child([this, &theirs] {
    const UniqueFd worker = Connect();
    const std::byte byte{};
    const int fd = worker.get();
    (void)SendWithFds(theirs.get(), std::span(&byte, 1), std::span(&fd, 1), 0);
    pause();
  });
  absl::StatusOr<ReceivedMessage> heir = ReceiveWithFds(ours.get(), 1, 0);
  ASSERT_TRUE(heir.ok());
  ASSERT_EQ(heir->fds.size(), 1u);
  ASSERT_TRUE(posted_.Await("opened", 1));
  SendObject(1);
  child.Kill();
  ASSERT_TRUE(posted_.Await("gone", 1));
  EXPECT_THAT(posted_.Of(1), ElementsAre("opened", "closed", "gone"));
  EXPECT_TRUE(HungUp(heir->fds[0].get()));
}

TEST_F(FdSocketTest, NothingIsPostedAfterStop) {
  const UniqueFd worker = Connect();
  ASSERT_TRUE(posted_.Await("opened", 1));
  socket_->Stop();
  EXPECT_TRUE(HungUp(worker.get()));
  EXPECT_THAT(posted_.Of(1), ElementsAre("opened"));
  socket_->Stop();
}

}  // namespace
}  // namespace kvsteward::rpc
