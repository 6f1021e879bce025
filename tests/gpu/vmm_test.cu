// Device memory shared between two processes, and what is left of it when either dies. The test starts itself again as
// the sides before any CUDA call and makes none itself; a third side, which shares nothing, tells what the device has
// free. Prints what it measures: docs/cuda-memory.md says what is asked.
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "base/fd_passing.h"
#include "base/unique_fd.h"
#include "tests/gpu/check.h"
#include "tests/gpu/vmm_side.h"

namespace kvsteward::gpu_test {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kBytes = (kEmulated ? 16 : 512) * kMiB;  // of the object: far more than contexts vary by
constexpr uint64_t kTolerance = kBytes / 4;

std::pair<UniqueFd, UniqueFd> SocketPair() {
  std::array<int, 2> fds{-1, -1};
  CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds.data()) == 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

class Process {
 public:
  // Starts this program as a side that has descriptor `peer`.
  explicit Process(int peer) {
    auto [mine, its] = SocketPair();
    const timeval patience{60, 0};
    setsockopt(mine.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    const std::string control = std::to_string(its.get()), other = std::to_string(peer);
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      for (const int fd : {its.get(), peer}) {
        if (fd >= 0) fcntl(fd, F_SETFD, 0);
      }
      execl("/proc/self/exe", "vmm_test", "side", control.c_str(), other.c_str(), nullptr);
      _exit(127);
    }
    control_ = std::move(mine);
  }
  ~Process() { Kill(); }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  Answer Do(Order order, uint64_t value = 0) {
    const Command command{order, value};
    Answer answer{2, 0, "no answer"};
    if (!SendWithFds(control_.get(), std::as_bytes(std::span(&command, 1)), {}, 0).ok()) return answer;
    const absl::StatusOr<ReceivedMessage> message = ReceiveWithFds(control_.get(), sizeof(answer), 0);
    if (message.ok() && message->bytes.size() == sizeof(answer)) {
      std::memcpy(&answer, message->bytes.data(), sizeof(answer));
    }
    return answer;
  }
  // The answer's value. Anything but success is a failure.
  uint64_t Must(Order order, uint64_t value = 0) {
    const Answer answer = Do(order, value);
    if (!CHECK(answer.code == 0)) std::printf("  order %d: %s\n", static_cast<int>(order), answer.text);
    return answer.code == 0 ? answer.value : UINT64_MAX;
  }
  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

 private:
  pid_t pid_ = -1;
  UniqueFd control_;
};

// An exporter and an importer with the memory between them.
struct Pair {
  Pair() {
    auto [one, other] = SocketPair();
    exporter = std::make_unique<Process>(one.get());
    importer = std::make_unique<Process>(other.get());
    exporter->Must(Order::kOpen);
    importer->Must(Order::kOpen);
  }
  void Share() {
    const uint64_t create = exporter->Must(Order::kCreate, kBytes);
    const uint64_t import = importer->Must(Order::kImport, kBytes);
    std::printf("  created in %llu us, imported in %llu us\n", static_cast<unsigned long long>(create),
                static_cast<unsigned long long>(import));
  }
  std::unique_ptr<Process> exporter, importer;
};

class Test {
 public:
  bool Open() { return CHECK(Opened()); }

  void BothWays() {
    std::printf("patterns both ways\n");
    Pair pair;
    const uint64_t before = Figure("before");
    pair.Share();
    CHECK(Figure("shared") + kBytes <= before + kTolerance);
    CHECK(pair.importer->Must(Order::kRead, 0) == 0);  // cleared before anyone sees it
    for (uint64_t seed = 1; seed <= 10; seed += 2) {
      pair.exporter->Must(Order::kWrite, seed);
      CHECK(pair.importer->Must(Order::kRead, seed) == 0);
      CHECK(pair.importer->Must(Order::kRead, seed + 1) > 0);  // the comparison can fail
      pair.importer->Must(Order::kWrite, seed + 1);
      CHECK(pair.exporter->Must(Order::kRead, seed + 1) == 0);
    }
    pair.importer->Must(Order::kDrop);
    CHECK(Figure("importer unmapped") + kBytes <= before + kTolerance);
    CHECK(pair.exporter->Must(Order::kRead, 10) == 0);
    pair.exporter->Must(Order::kDrop);
    Returns("exporter destroyed", before);
  }

  void ExporterDropsFirst() {
    std::printf("the exporter destroys while the importer has it mapped\n");
    Pair pair;
    const uint64_t before = Figure("before");
    pair.Share();
    pair.importer->Must(Order::kWrite, 5);
    pair.exporter->Must(Order::kDrop);
    CHECK(Figure("exporter destroyed") + kBytes <= before + kTolerance);  // so quarantine is needed
    CHECK(pair.importer->Must(Order::kRead, 0) == 0);                     // emptied
    pair.importer->Must(Order::kWrite, 6);
    CHECK(pair.importer->Must(Order::kRead, 6) == 0);
    pair.importer->Must(Order::kDrop);
    Returns("importer unmapped", before);
  }

  void Refusals() {
    std::printf("refusals\n");
    Pair pair;
    const uint64_t before = Figure("before");
    const Answer much = pair.exporter->Do(Order::kCreate, before / kBytes * kBytes + 4 * kBytes);
    std::printf("  more than is free: %s\n", much.text);
    CHECK(much.code == 8);                                     // RESOURCE_EXHAUSTED
    CHECK(pair.exporter->Do(Order::kCreate, 4096).code == 3);  // INVALID_ARGUMENT: the granularity
    const Answer wrong = pair.importer->Do(Order::kRefuse, kBytes);
    std::printf("  no device memory: %s\n", wrong.text);
    CHECK(wrong.code != 0 && wrong.code != 2);
    Returns("nothing left behind", before);
    pair.Share();  // and both still work
    pair.exporter->Must(Order::kWrite, 3);
    CHECK(pair.importer->Must(Order::kRead, 3) == 0);
  }

  void ImporterDies() {
    std::printf("kill -9 of the importer while its kernels write\n");
    const uint64_t empty = Figure("nobody");
    {
      Pair pair;
      pair.Share();
      pair.importer->Must(Order::kHammer);
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      Figure("importer writes");
      pair.importer->Kill();
      Figure("importer gone");
      for (uint64_t seed = 1; seed <= 20; ++seed) {  // no write of the dead comes in late
        pair.exporter->Must(Order::kWrite, seed);
        CHECK(pair.exporter->Must(Order::kRead, seed) == 0);
      }
      const uint64_t held = Figure("still held");
      pair.exporter->Must(Order::kDrop);
      CHECK(Figure("exporter destroyed") + kTolerance >= held + kBytes);
    }
    Returns("nobody", empty);
  }

  void ExporterDies() {
    std::printf("kill -9 of the exporter while its kernels write\n");
    const uint64_t empty = Figure("nobody");
    {
      Pair pair;
      pair.Share();
      pair.exporter->Must(Order::kHammer);
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      Figure("exporter writes");
      pair.exporter->Kill();
      const uint64_t held = Figure("exporter gone");
      for (uint64_t seed = 1; seed <= 20; ++seed) {
        pair.importer->Must(Order::kWrite, seed);
        CHECK(pair.importer->Must(Order::kRead, seed) == 0);
      }
      pair.importer->Must(Order::kDrop);
      CHECK(Figure("importer unmapped") + kTolerance >= held + kBytes);  // its mapping had kept the memory
    }
    Returns("nobody", empty);
  }

  void BothDie() {
    std::printf("kill -9 of both while both write\n");
    const uint64_t empty = Figure("nobody");
    {
      Pair pair;
      pair.Share();
      pair.exporter->Must(Order::kHammer);
      pair.importer->Must(Order::kHammer);
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    Returns("nobody", empty);
  }

 private:
  bool Opened() {
    const Answer answer = observer_.Do(Order::kOpen);
    if (answer.code != 0) std::printf("%s\n", answer.text);
    return answer.code == 0;
  }
  uint64_t Figure(const char* when) {
    const uint64_t free = observer_.Must(Order::kFree);
    std::printf("  %-24s %10llu MiB free\n", when, static_cast<unsigned long long>(free / kMiB));
    return free;
  }
  // Waits until as much is free as was; says how long it took.
  void Returns(const char* when, uint64_t before) {
    const auto start = std::chrono::steady_clock::now();
    const auto spent = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
    uint64_t free = 0;
    do {
      free = observer_.Must(Order::kFree);
      if (free != UINT64_MAX && free + kTolerance >= before) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    } while (spent() < 10);
    CHECK(free + kTolerance >= before);
    std::printf("  %-24s %10llu MiB free after %.3f s\n", when, static_cast<unsigned long long>(free / kMiB), spent());
  }

  Process observer_{-1};
};

}  // namespace
}  // namespace kvsteward::gpu_test

int main(int argc, char** argv) {
  using namespace kvsteward::gpu_test;
  if (argc == 4 && std::strcmp(argv[1], "side") == 0) return RunSide(std::atoi(argv[2]), std::atoi(argv[3]));
  std::setvbuf(stdout, nullptr, _IONBF, 0);
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 3;  // of the deaths
  Test test;
  if (test.Open()) {
    test.BothWays();
    test.ExporterDropsFirst();
    test.Refusals();
    for (int i = 0; i < rounds; ++i) {
      test.ImporterDies();
      test.ExporterDies();
      test.BothDie();
    }
  }
  return TestResult();
}
