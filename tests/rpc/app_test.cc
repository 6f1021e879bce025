// The executable from outside: what it prints, how it ends, and what a second one says.
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "grpcpp/create_channel.h"
#include "gtest/gtest.h"
#include "kernels/policy/preset_sources.h"
#include "kvsteward/engine/policy.h"
#include "service/memory/cgroup.h"
#include "tests/rpc/raw_worker.h"
#include "tests/rpc/rig.h"

namespace kvsteward::rpc {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

struct Ended {
  int status = -1;     // exit status; -1: a signal
  std::string output;  // stdout and stderr
};

// A process of the executable.
class Program {
 public:
  explicit Program(const std::vector<std::string>& arguments) {
    int ends[2];
    EXPECT_EQ(pipe(ends), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDERR_FILENO);
    posix_spawn_file_actions_addclose(&actions, ends[0]);
    std::vector<char*> argv = {const_cast<char*>(KVSTEWARD_EXECUTABLE)};
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    EXPECT_EQ(posix_spawn(&pid_, KVSTEWARD_EXECUTABLE, &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    output_ = UniqueFd(ends[0]);
  }
  ~Program() {
    if (pid_ > 0) kill(pid_, SIGKILL);
    if (pid_ > 0) waitpid(pid_, nullptr, 0);
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  void Signal(int number) { kill(pid_, number); }
  Ended Wait() {
    Ended ended;
    std::array<char, 4096> bytes;
    for (ssize_t got; (got = read(output_.get(), bytes.data(), bytes.size())) > 0;) {
      ended.output.append(bytes.data(), static_cast<size_t>(got));
    }
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = 0;
    if (WIFEXITED(status)) ended.status = WEXITSTATUS(status);
    return ended;
  }

 private:
  pid_t pid_ = 0;
  UniqueFd output_;
};

Ended RunProgram(const std::vector<std::string>& arguments) { return Program(arguments).Wait(); }

class AppTest : public ::testing::Test {
 protected:
  AppTest() {
    std::ofstream(config()) << "listen: {address: \"" << address() << "\", admin: \"" << admin() << "\"}\n"
                            << "device: {kind: host}\n"
                            << "arena: {bytes: 32MiB, extent_bytes: 1MiB}\n"
                            << "limits: {drain_seconds: 20}\n"
                            << "tenants: [{name: t, fd_socket: " << dir_ / "t.sock"
                            << "}]\n";
  }
  std::string config() const { return dir_ / "kv.yaml"; }
  std::string address() const { return "unix:" + dir_ / "s.sock"; }
  std::string admin() const { return "unix:" + dir_ / "a.sock"; }

  // Waits until the daemon serves.
  void AwaitHealth() const {
    for (int i = 0; i < 300; ++i) {
      if (RunProgram({"health", "--address", address()}).status == 0) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    FAIL() << "the daemon does not serve";
  }

  TempDir dir_;
};

TEST_F(AppTest, HelpVersionPolicies) {
  EXPECT_EQ(RunProgram({}).status, 0);
  EXPECT_THAT(RunProgram({}).output, HasSubstr("serve"));
  EXPECT_EQ(RunProgram({"version"}).status, 0);
  std::string policies;
  for (const std::string& name : engine::PresetNames()) {
    const engine::PresetSource& source = engine::SourceOf(name);
    policies += "---\n# source: " + std::string(source.papers) + "\n# changes: " + std::string(source.changes) + "\n" +
                engine::PolicyToYaml(*engine::Preset(name));
  }
  EXPECT_EQ(RunProgram({"policies"}).output, policies);
  const std::string two = RunProgram({"policies", "tova", "h2o"}).output;
  EXPECT_THAT(two, StartsWith("---\n# source: arXiv 2401.06104\n# changes: the newest token is protected"));
  EXPECT_THAT(two, HasSubstr("drop it\nname: tova\n"));
  EXPECT_THAT(two, HasSubstr("\n---\n# source: arXiv 2306.14048\n# changes: "));
  const Ended unknown = RunProgram({"policies", "tova", "best"});
  EXPECT_EQ(unknown.status, 2);
  EXPECT_THAT(unknown.output, StartsWith("kvsteward: there is no policy 'best'; choose one of ahakv-ada, "));
  EXPECT_EQ(RunProgram({"dance"}).status, 2);
  EXPECT_EQ(RunProgram({"replay", "--policy", "snapkv"}).status, 2);
}

TEST_F(AppTest, AWrongConfigurationIsOneLineAndStatusTwo) {
  std::ofstream(config()) << "arena:\n  size: 1\n";
  const Ended ended = RunProgram({"serve", "--config", config()});
  EXPECT_EQ(ended.status, 2);
  EXPECT_THAT(ended.output, StartsWith("kvsteward: " + config() + ":2: there is no key arena.size;"));
  EXPECT_EQ(ended.output.find('\n'), ended.output.size() - 1);
  EXPECT_EQ(RunProgram({"serve", "--config", dir_ / "none.yaml"}).status, 2);
}

// Above the control group's limit the kernel would kill it later; it says so now. The largest arena that a
// configuration may have is above every limit but "none".
TEST_F(AppTest, AnArenaAboveTheControlGroupsLimitIsOneLineAndStatusTwo) {
  const uint64_t limit = memory::CgroupMemoryLimit();
  constexpr uint64_t kLargest = 1ull << 50;
  if (limit >= kLargest)
    GTEST_SKIP() << "this machine's control group limits no memory: the refusal is NOT tested here";
  std::ofstream(config()) << "device: {kind: host}\narena: {bytes: 1024TiB}\n";
  const Ended ended = RunProgram({"serve", "--config", config()});
  EXPECT_EQ(ended.status, 2);
  EXPECT_EQ(ended.output, "kvsteward: arena.bytes is " + std::to_string(kLargest) +
                              "; it must be at most what the memory control group allows, " + std::to_string(limit) +
                              "\n");
}

TEST_F(AppTest, ADeviceThatIsNotThereIsOneLineAndStatusTwo) {
  std::ofstream(config()) << "device: {kind: auto, uuid: GPU-01234567-89ab-cdef-0123-456789abcdef}\n";
  const Ended ended = RunProgram({"serve", "--config", config()});
  EXPECT_EQ(ended.status, 2);
  EXPECT_THAT(ended.output, StartsWith("kvsteward: device.uuid is GPU-01234567-89ab-cdef-0123-456789abcdef: "));
  EXPECT_EQ(ended.output.find('\n'), ended.output.size() - 1) << ended.output;
}

TEST_F(AppTest, NoDaemonIsStatusOne) {
  EXPECT_EQ(RunProgram({"health", "--address", address()}).status, 1);
  EXPECT_EQ(RunProgram({"status", "--address", admin()}).status, 1);
}

TEST_F(AppTest, AFileThatIsNoRecordingIsOneLineAndStatusTwo) {
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{"replay", config(), "--policy", "snapkv", "--budget", "10%"},
                                             {"replay", dir_ / "none", "--policy", "snapkv", "--budget", "10%"},
                                             {"replay", config(), "--policy", "snapkv", "--budget", "plenty"},
                                             {"replay", config(), "--policy", "none", "--budget", "10"}}) {
    const Ended ended = RunProgram(arguments);
    EXPECT_EQ(ended.status, 2) << ended.output;
    EXPECT_THAT(ended.output, StartsWith("kvsteward: "));
    EXPECT_EQ(ended.output.find('\n'), ended.output.size() - 1) << ended.output;
  }
}

TEST_F(AppTest, AFileThatIsNoPolicyIsOneLineAndStatusTwo) {
  std::ofstream(dir_ / "empty.yaml");
  const auto refused = [&](const std::string& policy, const std::string& says) {
    const Ended ended = RunProgram({"replay", config(), "--policy", policy, "--budget", "10"});
    EXPECT_EQ(ended.status, 2);
    EXPECT_THAT(ended.output, StartsWith("kvsteward: " + says));
    EXPECT_EQ(ended.output.find('\n'), ended.output.size() - 1) << ended.output;
  };
  refused(dir_ / "empty.yaml", std::string(dir_ / "empty.yaml") + ": policy line 1: policy must be a mapping");
  refused(dir_ / ".", std::string(dir_ / ".") + " cannot be read: Is a directory");
  refused(dir_ / "none.yaml", "there is no policy '");
}

TEST_F(AppTest, ServesDrainsOnTermAndIsAloneOnItsSockets) {
  Program daemon({"serve", "--config", config()});
  ASSERT_NO_FATAL_FAILURE(AwaitHealth());
  EXPECT_THAT(RunProgram({"status", "--address", admin()}).output, HasSubstr("32.00 MiB"));
  EXPECT_THAT(RunProgram({"status", "--json", "--address", admin()}).output, StartsWith("{\"version\":"));
  const Ended second = RunProgram({"serve", "--config", config()});
  EXPECT_EQ(second.status, 1);
  EXPECT_THAT(second.output, HasSubstr("is in use by another kvsteward (pid "));

  daemon.Signal(SIGHUP);  // means nothing
  ASSERT_NO_FATAL_FAILURE(AwaitHealth());
  auto stub = v1::Steward::NewStub(grpc::CreateChannel(address(), grpc::InsecureChannelCredentials()));
  RawWorker worker(dir_ / "t.sock", std::move(stub));
  ASSERT_NO_FATAL_FAILURE(worker.Start());
  daemon.Signal(SIGTERM);
  // Read before the end: gRPC drops a message that nobody has asked for once the stream's error is there.
  EXPECT_EQ(worker.NextNotice(), v1::HoldResponse::NOTICE_DRAINING);
  const Ended ended = daemon.Wait();
  EXPECT_EQ(ended.status, 0) << ended.output;
  EXPECT_THAT(ended.output, HasSubstr("event=serving"));
  EXPECT_THAT(ended.output, HasSubstr("event=stopped"));
  EXPECT_EQ(worker.NextNotice(), std::nullopt);
  EXPECT_EQ(worker.FinishHold().error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(AppTest, TenantsAreListedAndSet) {
  Program daemon({"serve", "--config", config()});
  ASSERT_NO_FATAL_FAILURE(AwaitHealth());
  const auto tenants = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "tenants");
    arguments.insert(arguments.end(), {"--address", admin()});
    return RunProgram(arguments);
  };
  EXPECT_THAT(tenants({"list"}).output, HasSubstr("ahakv-ada"));
  EXPECT_EQ(tenants({"set", "t", "--policy", "snapkv"}).status, 0);
  EXPECT_THAT(tenants({"list"}).output, HasSubstr("snapkv"));
  std::ofstream(dir_ / "mine.yaml") << "name: mine\nsignal: none\n";
  EXPECT_EQ(tenants({"set", "t", "--policy", dir_ / "mine.yaml"}).status, 0);
  const Ended listed = tenants({"list", "--json"});
  EXPECT_EQ(listed.status, 0);
  EXPECT_THAT(listed.output, HasSubstr("\"policy\":\"mine\""));
  EXPECT_THAT(listed.output, HasSubstr("signal: none"));
  EXPECT_EQ(tenants({"set", "t", "--policy", ""}).status, 0);
  EXPECT_THAT(tenants({"list"}).output, HasSubstr("ahakv-ada"));

  const auto refused = [&](const std::vector<std::string>& arguments, const std::string& says) {
    const Ended ended = tenants(arguments);
    EXPECT_EQ(ended.status, 2) << ended.output;
    EXPECT_THAT(ended.output, HasSubstr(says));
  };
  refused({"set", "nobody", "--policy", "snapkv"}, "nobody");
  refused({"set", "t", "--policy", "best"}, "there is no policy 'best'");
  std::ofstream(dir_ / "mine.yaml") << "name: mine\nsignal: guess\n";
  refused({"set", "t", "--policy", dir_ / "mine.yaml"}, "mine.yaml: policy line 2: signal is 'guess'");
  refused({"set", "t"}, "--policy is required");
  refused({}, "subcommand is required");
  EXPECT_THAT(tenants({"list"}).output, HasSubstr("ahakv-ada"));
  daemon.Signal(SIGKILL);
  daemon.Wait();
  EXPECT_EQ(tenants({"list"}).status, 1);
  EXPECT_EQ(tenants({"set", "t", "--policy", "snapkv"}).status, 1);
}

TEST_F(AppTest, AnOperatorDrainsIt) {
  Program daemon({"serve", "--config", config()});
  ASSERT_NO_FATAL_FAILURE(AwaitHealth());
  const auto stub = v1::Admin::NewStub(grpc::CreateChannel(admin(), grpc::InsecureChannelCredentials()));
  v1::DrainResponse response;
  EXPECT_TRUE(stub->Drain(Context().get(), {}, &response).ok());
  EXPECT_EQ(daemon.Wait().status, 0);
}

TEST_F(AppTest, AKilledOnesSocketsAreTakenOver) {
  {
    Program killed({"serve", "--config", config()});
    ASSERT_NO_FATAL_FAILURE(AwaitHealth());
    killed.Signal(SIGKILL);
    EXPECT_EQ(killed.Wait().status, -1);
  }
  Program daemon({"serve", "--config", config()});
  ASSERT_NO_FATAL_FAILURE(AwaitHealth());
  daemon.Signal(SIGINT);
  EXPECT_EQ(daemon.Wait().status, 0);
}

}  // namespace
}  // namespace kvsteward::rpc
